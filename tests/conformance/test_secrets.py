"""Secrets and ConfigMaps: encodings, types, immutability."""

from __future__ import annotations

import base64
import json

import pytest

from tests.conformance.client import Api, causes, refused
from tests.conformance.objects import Object, config_map, secret

MERGE = "application/merge-patch+json"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_string_data_becomes_data(api: Api) -> None:
    made = api.create("secrets", secret("a", data={"x": b64("1")}, stringData={"y": "two"}))
    assert made["data"] == {"x": b64("1"), "y": b64("two")}
    assert "stringData" not in made
    assert made["type"] == "Opaque"


def test_string_data_wins_over_data(api: Api) -> None:
    made = api.create("secrets", secret("a", data={"x": b64("1")}, stringData={"x": "2"}))
    assert made["data"] == {"x": b64("2")}


def test_string_data_by_patch(api: Api) -> None:
    api.create("secrets", secret("a", stringData={"x": "1"}))
    patched = api.patch("secrets", "a", {"stringData": {"y": "2"}})
    assert patched["data"] == {"x": b64("1"), "y": b64("2")}


def test_data_must_be_base64(api: Api) -> None:
    refused(api.send("POST", "secrets", body=secret("a", data={"x": "not base64!"})), 400, "BadRequest")


@pytest.mark.parametrize("key", ["white space", "sla/sh", "..", "k" * 254])
def test_keys_are_file_names(api: Api, key: str) -> None:
    for resource, body in (
        ("secrets", secret("a", data={key: b64("1")})),
        ("configmaps", config_map("a", {key: "1"})),
    ):
        status = refused(api.send("POST", resource, body=body), 422, "Invalid")
        assert any(field.startswith("data") for field, _ in causes(status))


def test_the_type_never_changes(api: Api) -> None:
    api.create("secrets", secret("a"))
    response = api.send("PATCH", "secrets", "a", {"type": "example.dev/other"}, type=MERGE)
    assert ("type", "FieldValueInvalid") in causes(refused(response, 422, "Invalid"))


@pytest.mark.parametrize(
    ("kind", "data", "accepted"),
    [
        ("kubernetes.io/tls", {"tls.crt": b64("c"), "tls.key": b64("k")}, True),
        ("kubernetes.io/tls", {"tls.crt": b64("c")}, False),
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": b64(json.dumps({"auths": {}}))}, True),
        ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": b64("no json")}, False),
        ("kubernetes.io/dockerconfigjson", {}, False),
        ("kubernetes.io/basic-auth", {"username": b64("u")}, True),
        ("kubernetes.io/basic-auth", {}, False),
        ("example.dev/own", {"anything": b64("x")}, True),
    ],
)
def test_known_types_want_their_keys(api: Api, kind: str, data: Object, accepted: bool) -> None:
    response = api.send("POST", "secrets", body=secret("a", type=kind, data=data))
    assert response.status_code == (201 if accepted else 422), response.text


@pytest.mark.parametrize("resource", ["secrets", "configmaps"])
def test_immutable_objects(api: Api, resource: str) -> None:
    body = secret("a", stringData={"x": "1"}) if resource == "secrets" else config_map("a", {"x": "1"})
    api.create(resource, {**body, "immutable": True})
    for patch in ({"data": {"x": b64("2")}}, {"immutable": False}):
        refused(api.send("PATCH", resource, "a", patch, type=MERGE), 422, "Invalid")
    assert api.patch(resource, "a", {"metadata": {"labels": {"still": "allowed"}}})["metadata"]["labels"]
    api.delete(resource, "a")


def test_config_maps_carry_bytes_too(api: Api) -> None:
    made = api.create("configmaps", {**config_map("a", {"x": "1"}), "binaryData": {"y": b64("2")}})
    assert made["binaryData"] == {"y": b64("2")}


def test_a_key_is_in_one_place_only(api: Api) -> None:
    body = {**config_map("a", {"x": "1"}), "binaryData": {"x": b64("2")}}
    refused(api.send("POST", "configmaps", body=body), 422, "Invalid")
