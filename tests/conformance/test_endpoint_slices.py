"""Validation of EndpointSlices."""

from __future__ import annotations

import pytest

from tests.conformance.client import PATCHES, Api, causes, refused, succeeded
from tests.conformance.objects import Object


def path_of(api: Api, name: str = "") -> str:
    base = f"/apis/discovery.k8s.io/v1/namespaces/{api.namespace}/endpointslices"
    return f"{base}/{name}" if name else base


def endpoint_slice(**rest: object) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": 8000}],
        **rest,
    }


def test_a_slice_is_kept_as_it_is(api: Api) -> None:
    made = succeeded(api.http.post(path_of(api), json=endpoint_slice()))
    assert made["endpoints"] == [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}]
    assert made["ports"] == [{"name": "http", "port": 8000, "protocol": "TCP"}]
    found = succeeded(api.http.get(path_of(api), params={"labelSelector": "kubernetes.io/service-name=web"}))
    assert [item["metadata"]["name"] for item in found["items"]] == ["web-1"]


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"addressType": "Pigeon"}, "addressType", "NotSupported"),
        ({"endpoints": [{"addresses": []}]}, "endpoints[0].addresses", "Required"),
        ({"endpoints": [{"addresses": ["web"]}]}, "endpoints[0].addresses[0]", "Invalid"),
        ({"endpoints": [{"addresses": ["127.0.0.1"]}]}, "endpoints[0].addresses[0]", "Invalid"),
        ({"addressType": "IPv6"}, "endpoints[0].addresses", "Invalid"),
        ({"ports": [{"port": 80}, {"port": 81}]}, "ports[1].name", "Duplicate"),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]}, "ports[0].protocol", "NotSupported"),
        ({"ports": [{"port": 80, "name": "A B"}]}, "ports[0].name", "Invalid"),
    ],
    ids=["type", "no address", "no IP", "loopback", "family", "port names", "protocol", "port name"],
)
def test_mistakes(api: Api, change: Object, field: str, reason: str) -> None:
    status = refused(api.http.post(path_of(api), json=endpoint_slice(**change)), 422, "Invalid")
    assert causes(status) == {(field, f"FieldValue{reason}")}


def test_the_type_of_addresses_is_fixed(api: Api) -> None:
    succeeded(api.http.post(path_of(api), json=endpoint_slice()))
    change = {"addressType": "IPv6", "endpoints": []}
    response = api.http.patch(path_of(api, "web-1"), json=change, headers={"Content-Type": PATCHES["merge"]})
    assert causes(refused(response, 422, "Invalid")) == {("addressType", "FieldValueInvalid")}
