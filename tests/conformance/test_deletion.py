"""Deletion: finalizers, preconditions, propagation, and the garbage collector."""

from __future__ import annotations

import pytest

from tests.conformance.client import Api, refused, succeeded, version
from tests.conformance.objects import Object, config_map, owned_by, pod, secret, widget
from tests.support.eventually import eventually

NOBODY = "11111111-2222-3333-4444-555555555555"


def is_gone(api: Api, resource: str, name: str) -> None:
    eventually(lambda: api.find(resource, name) is None, f"{resource}/{name} is gone")


def test_deletion_answers_with_a_status(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    answer = api.delete("configmaps", "a")
    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    assert answer["details"] == {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}
    assert api.find("configmaps", "a") is None


def test_finalizers_hold_an_object(api: Api) -> None:
    api.create("configmaps", config_map("a", finalizers=["example.dev/hold"]))
    marked = api.delete("configmaps", "a")
    assert marked["kind"] == "ConfigMap"
    assert marked["metadata"]["deletionTimestamp"]
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 0
    assert api.get("configmaps", "a")["metadata"]["finalizers"] == ["example.dev/hold"]


def test_removing_the_last_finalizer_deletes(api: Api) -> None:
    api.create("configmaps", config_map("a", finalizers=["example.dev/one", "example.dev/two"]))
    api.delete("configmaps", "a")
    api.patch("configmaps", "a", {"metadata": {"finalizers": ["example.dev/two"]}})
    assert api.find("configmaps", "a") is not None
    api.patch("configmaps", "a", {"metadata": {"finalizers": []}})
    assert api.find("configmaps", "a") is None


def test_deleting_twice_keeps_the_first_time(api: Api) -> None:
    api.create("configmaps", config_map("a", finalizers=["example.dev/hold"]))
    first = api.delete("configmaps", "a")["metadata"]["deletionTimestamp"]
    again = api.delete("configmaps", "a")["metadata"]["deletionTimestamp"]
    assert first == again
    api.patch("configmaps", "a", {"metadata": {"finalizers": None}})


def test_no_new_finalizers_while_deleting(api: Api) -> None:
    api.create("configmaps", config_map("a", finalizers=["example.dev/hold"]))
    api.delete("configmaps", "a")
    more = {"metadata": {"finalizers": ["example.dev/hold", "example.dev/more"]}}
    response = api.send("PATCH", "configmaps", "a", more, type="application/merge-patch+json")
    status = refused(response, 422, "Invalid")
    assert "metadata.finalizers" in status["message"]
    api.patch("configmaps", "a", {"metadata": {"finalizers": None}})


def test_a_deletion_cannot_be_taken_back(api: Api) -> None:
    api.create("configmaps", config_map("a", finalizers=["example.dev/hold"]))
    api.delete("configmaps", "a")
    patched = api.patch("configmaps", "a", {"metadata": {"deletionTimestamp": None}, "data": {"a": "2"}})
    assert patched["metadata"]["deletionTimestamp"]
    assert patched["data"] == {"a": "2"}
    api.patch("configmaps", "a", {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("name", ["not qualified", "UPPER/ok/more", "nodomain"])
def test_finalizers_are_qualified_names(api: Api, name: str) -> None:
    response = api.send("POST", "configmaps", body=config_map("a", finalizers=[name]))
    assert refused(response, 422, "Invalid")["details"]["causes"]


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
def test_preconditions(api: Api, field: str) -> None:
    made = api.create("configmaps", config_map("a"))
    wrong = {"uid": NOBODY, "resourceVersion": "1"}[field]
    body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {field: wrong}}
    refused(api.send("DELETE", "configmaps", "a", body), 409, "Conflict")
    body["preconditions"] = {field: made["metadata"][field]}
    succeeded(api.send("DELETE", "configmaps", "a", body))


def test_unknown_propagation_policies(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    response = api.send("DELETE", "configmaps", "a", propagationPolicy="Sideways")
    assert response.status_code in (400, 422)
    assert "Sideways" in response.json()["message"]


def test_deletion_options_may_be_query_parameters(api: Api) -> None:
    owner = api.create("configmaps", config_map("owner"))
    api.create("configmaps", config_map("child", ownerReferences=owned_by(owner)))
    succeeded(api.send("DELETE", "configmaps", "owner", propagationPolicy="Orphan"))
    is_gone(api, "configmaps", "owner")
    eventually(lambda: "ownerReferences" not in api.get("configmaps", "child")["metadata"], "the reference is removed")


def test_background_propagation(api: Api) -> None:
    owner = api.create("configmaps", config_map("owner"))
    child = api.create("secrets", secret("child", metadata={"ownerReferences": owned_by(owner)}))
    api.create("configmaps", config_map("grandchild", ownerReferences=owned_by(child)))
    api.delete("configmaps", "owner", "Background")
    assert api.find("configmaps", "owner") is None
    is_gone(api, "secrets", "child")
    is_gone(api, "configmaps", "grandchild")


def test_foreground_propagation(api: Api) -> None:
    """The owner stays, with a deletionTimestamp, until all blocking dependents are deleted."""
    owner = api.create("configmaps", config_map("owner"))
    references = owned_by(owner, block=True)
    held = config_map("child", ownerReferences=references, finalizers=["example.dev/hold"])
    api.create("configmaps", held)
    marked = api.delete("configmaps", "owner", "Foreground")
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    eventually(lambda: "deletionTimestamp" in api.get("configmaps", "child")["metadata"], "the dependent is marked")
    assert api.find("configmaps", "owner") is not None
    api.patch("configmaps", "child", {"metadata": {"finalizers": None}})
    is_gone(api, "configmaps", "child")
    is_gone(api, "configmaps", "owner")


def test_foreground_does_not_wait_for_dependents_that_do_not_block(api: Api) -> None:
    owner = api.create("configmaps", config_map("owner"))
    held = config_map("child", ownerReferences=owned_by(owner), finalizers=["example.dev/hold"])
    api.create("configmaps", held)
    api.delete("configmaps", "owner", "Foreground")
    is_gone(api, "configmaps", "owner")
    api.patch("configmaps", "child", {"metadata": {"finalizers": None}})


def test_orphans_lose_their_owner(api: Api) -> None:
    owner = api.create("configmaps", config_map("owner"))
    api.create("configmaps", config_map("child", ownerReferences=owned_by(owner)))
    api.delete("configmaps", "owner", "Orphan")
    is_gone(api, "configmaps", "owner")
    eventually(lambda: "ownerReferences" not in api.get("configmaps", "child")["metadata"], "the reference is removed")


def test_a_dependent_lives_as_long_as_one_of_its_owners(api: Api) -> None:
    owners = [api.create("configmaps", config_map(name)) for name in ("one", "two")]
    references = [reference for owner in owners for reference in owned_by(owner)]
    api.create("configmaps", config_map("child", ownerReferences=references))
    api.delete("configmaps", "one", "Background")

    def remaining() -> list[str]:
        return [item["name"] for item in api.get("configmaps", "child")["metadata"]["ownerReferences"]]

    eventually(lambda: remaining() == ["two"], "the reference to the absent owner is removed")
    api.delete("configmaps", "two", "Background")
    is_gone(api, "configmaps", "child")


def test_an_owner_that_never_was(api: Api) -> None:
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "ghost", "uid": NOBODY}
    api.create("configmaps", config_map("child", ownerReferences=[reference]))
    is_gone(api, "configmaps", "child")


def test_a_namesake_is_no_owner(api: Api) -> None:
    first = api.create("configmaps", config_map("owner"))
    api.create("configmaps", config_map("child", ownerReferences=owned_by(first)))
    api.delete("configmaps", "owner", "Background")
    second = api.create("configmaps", config_map("owner"))
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    is_gone(api, "configmaps", "child")


@pytest.mark.parametrize(
    "reference",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x"},
        {"apiVersion": "v1", "kind": "ConfigMap", "uid": NOBODY},
        {"apiVersion": "v1", "name": "x", "uid": NOBODY},
        {"kind": "ConfigMap", "name": "x", "uid": NOBODY},
    ],
    ids=["uid", "name", "kind", "apiVersion"],
)
def test_owner_references_are_complete(api: Api, reference: Object) -> None:
    response = api.send("POST", "configmaps", body=config_map("a", ownerReferences=[reference]))
    refused(response, 422, "Invalid")


def test_one_controller_at_most(api: Api) -> None:
    owners = [api.create("configmaps", config_map(name)) for name in ("one", "two")]
    references = [reference for owner in owners for reference in owned_by(owner, controller=True)]
    response = api.send("POST", "configmaps", body=config_map("a", ownerReferences=references))
    status = refused(response, 422, "Invalid")
    assert "metadata.ownerReferences" in status["message"]


def test_pods_without_a_node_are_deleted_at_once(api: Api) -> None:
    api.create("pods", pod("a"))
    api.delete("pods", "a")
    assert api.find("pods", "a") is None


def test_pods_on_a_node_get_a_grace_period(api: Api) -> None:
    api.create("pods", pod("a", spec={"nodeName": "somewhere", "terminationGracePeriodSeconds": 7}))
    marked = api.delete("pods", "a")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7
    assert api.get("pods", "a")["metadata"]["deletionTimestamp"]
    api.delete("pods", "a", grace=0)
    assert api.find("pods", "a") is None


def test_deletion_bumps_the_version(api: Api) -> None:
    made = api.create("configmaps", config_map("a", finalizers=["example.dev/hold"]))
    marked = api.delete("configmaps", "a")
    assert int(version(marked)) > int(version(made))
    api.patch("configmaps", "a", {"metadata": {"finalizers": None}})


def test_deletion_is_a_new_generation(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a", finalizers=["example.dev/hold"]))
    marked = api.delete("widgets", "a")
    assert marked["metadata"]["generation"] == 2
    api.patch("widgets", "a", {"metadata": {"finalizers": None}})
    assert api.find("widgets", "a") is None
