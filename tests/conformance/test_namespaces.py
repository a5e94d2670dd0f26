"""Namespaces: their contents and their deletion."""

from __future__ import annotations

import pytest

from tests.conformance.client import Api, refused
from tests.conformance.objects import config_map, deployment, secret
from tests.support.eventually import eventually


@pytest.fixture
def room(api: Api) -> str:
    """A namespace that a test may delete."""
    name = f"{api.namespace}-room"
    api.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@pytest.mark.parametrize("name", ["default", "kube-system"])
def test_some_are_there_from_the_start(api: Api, name: str) -> None:
    assert api.get("namespaces", name)["status"]["phase"] == "Active"


def test_new_namespaces_are_active(api: Api, room: str) -> None:
    made = api.get("namespaces", room)
    assert made["status"] == {"phase": "Active"}
    assert made["spec"] == {"finalizers": ["kubernetes"]}


def test_nothing_is_made_in_a_missing_namespace(api: Api) -> None:
    status = refused(api.send("POST", "configmaps", body=config_map("a"), namespace="nowhere"), 404, "NotFound")
    assert status["message"] == 'namespaces "nowhere" not found'


def test_nothing_is_applied_in_a_missing_namespace(api: Api) -> None:
    refused(api.try_apply("configmaps", config_map("a"), namespace="nowhere"), 404, "NotFound")


def test_lists_of_a_missing_namespace_are_empty(api: Api) -> None:
    assert api.list("configmaps", namespace="nowhere")["items"] == []


def test_deletion_takes_everything_along(api: Api, room: str) -> None:
    api.create("configmaps", config_map("a"), namespace=room)
    api.create("secrets", secret("b"), namespace=room)
    api.create("deployments", deployment("web"), namespace=room)
    api.delete("namespaces", room)
    eventually(lambda: api.find("namespaces", room) is None, "the namespace is gone")
    for resource in ("configmaps", "secrets", "deployments", "replicasets", "pods"):
        assert api.list(resource, namespace=room)["items"] == []


def test_deletion_waits_for_finalizers_and_lets_nothing_in(api: Api, room: str) -> None:
    api.create("configmaps", config_map("a", finalizers=["example.dev/hold"]), namespace=room)
    api.delete("namespaces", room)
    eventually(
        lambda: "deletionTimestamp" in api.get("configmaps", "a", namespace=room)["metadata"],
        "the object in it is marked",
    )
    assert api.get("namespaces", room)["status"]["phase"] == "Terminating"
    status = refused(api.send("POST", "configmaps", body=config_map("b"), namespace=room), 403, "Forbidden")
    assert "because it is being terminated" in status["message"]
    api.patch("configmaps", "a", {"metadata": {"finalizers": None}}, namespace=room)
    eventually(lambda: api.find("namespaces", room) is None, "the namespace is gone")


@pytest.mark.parametrize("name", ["Upper", "dots.are.wrong", "a" * 64])
def test_names_are_dns_labels(api: Api, name: str) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    refused(api.send("POST", "namespaces", body=body), 422, "Invalid")


def test_the_default_service_account_appears(api: Api) -> None:
    eventually(lambda: "default" in api.names("serviceaccounts"), "the default service account is there")
