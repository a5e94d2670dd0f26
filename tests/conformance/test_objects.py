"""Create, read, update, delete; metadata that the server keeps; resourceVersion and generation."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from tests.conformance.client import Api, generation, refused, succeeded, version
from tests.conformance.objects import Object, config_map, deployment, widget


def test_create_fills_in_metadata(api: Api) -> None:
    made = api.create("configmaps", config_map("a", labels={"x": "y"}))
    metadata = made["metadata"]
    assert made["kind"] == "ConfigMap"
    assert made["apiVersion"] == "v1"
    assert metadata["namespace"] == api.namespace
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", metadata["uid"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["creationTimestamp"])
    assert int(metadata["resourceVersion"]) > 0
    assert metadata["labels"] == {"x": "y"}
    assert api.get("configmaps", "a") == made


def test_create_ignores_server_owned_metadata(api: Api) -> None:
    forged: dict[str, Any] = {"uid": "forged", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7}
    made = api.create("configmaps", config_map("a", **forged))
    assert made["metadata"]["uid"] != "forged"
    assert not made["metadata"]["creationTimestamp"].startswith("2001")


def test_create_answers_201_and_update_200(api: Api) -> None:
    assert api.send("POST", "configmaps", body=config_map("a")).status_code == 201
    assert api.send("PUT", "configmaps", "a", config_map("a", {"a": "2"})).status_code == 200


def test_generated_names(api: Api) -> None:
    template = config_map("")
    template["metadata"] = {"generateName": "part-"}
    names = {api.create("configmaps", copy.deepcopy(template))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"part-[a-z0-9]{5}", name) for name in names)


def test_create_twice_is_already_exists(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    status = refused(api.send("POST", "configmaps", body=config_map("a")), 409, "AlreadyExists")
    assert status["message"] == 'configmaps "a" already exists'
    assert status["details"] == {"name": "a", "kind": "configmaps"}


def test_missing_is_not_found(api: Api) -> None:
    status = refused(api.send("GET", "deployments", "ghost"), 404, "NotFound")
    assert status["message"] == 'deployments.apps "ghost" not found'
    assert status["details"] == {"name": "ghost", "group": "apps", "kind": "deployments"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_every_verb_reports_missing(api: Api, method: str) -> None:
    body = config_map("ghost") if method == "PUT" else None
    refused(api.send(method, "configmaps", "ghost", body), 404, "NotFound")


def test_update_replaces(api: Api) -> None:
    made = api.create("configmaps", config_map("a", {"a": "1", "b": "2"}, labels={"x": "y"}))
    made["data"] = {"c": "3"}
    del made["metadata"]["labels"]
    updated = api.update("configmaps", made)
    assert updated["data"] == {"c": "3"}
    assert "labels" not in updated["metadata"]
    assert updated["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(version(updated)) > int(version(made))


def test_stale_update_conflicts(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    api.update("configmaps", {**made, "data": {"a": "2"}})
    status = refused(api.send("PUT", "configmaps", "a", {**made, "data": {"a": "3"}}), 409, "Conflict")
    assert status["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    assert api.get("configmaps", "a")["data"] == {"a": "2"}


def test_update_without_version_is_unconditional(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    assert api.update("configmaps", config_map("a", {"a": "9"}))["data"] == {"a": "9"}


def test_update_with_another_uid_conflicts(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    other = config_map("a", {"a": "2"}, uid="11111111-2222-3333-4444-555555555555")
    refused(api.send("PUT", "configmaps", "a", other), 409, "Conflict")


def test_custom_resource_update_needs_a_version(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    status = refused(api.send("PUT", "widgets", "a", widget("a", {"size": 2})), 422, "Invalid")
    assert "metadata.resourceVersion" in status["message"]


def test_update_that_changes_nothing_writes_nothing(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    assert version(api.update("configmaps", made)) == version(made)
    assert version(api.patch("configmaps", "a", {"data": {"a": "1"}})) == version(made)


def test_versions_grow_over_all_objects(api: Api) -> None:
    versions = [int(version(api.create("configmaps", config_map(name)))) for name in "abc"]
    assert versions == sorted(set(versions))


def test_name_in_body_must_match_path(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    refused(api.send("PUT", "configmaps", "a", config_map("b")), 400, "BadRequest")


def test_namespace_in_body_must_match_path(api: Api) -> None:
    refused(api.send("POST", "configmaps", body=config_map("a", namespace="other")), 400, "BadRequest")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'"text"', b'{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": 5}}'],
    ids=["empty", "broken", "scalar", "wrong type"],
)
def test_malformed_bodies(api: Api, body: bytes) -> None:
    refused(api.send("POST", "configmaps", body=body), 400, "BadRequest")


def test_kind_in_body_must_match_path(api: Api) -> None:
    wrong = {**config_map("a"), "kind": "Secret"}
    refused(api.send("POST", "configmaps", body=wrong), 400, "BadRequest")


def test_bodies_may_be_yaml(api: Api) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  text: |\n    two\n    lines\n"
    made = succeeded(api.send("POST", "configmaps", body=body, type="application/yaml"))
    assert made["data"] == {"text": "two\nlines\n"}


def test_other_content_types_are_refused(api: Api) -> None:
    response = api.send("POST", "configmaps", body=b"hello", type="text/plain")
    refused(response, 415, "UnsupportedMediaType")


def test_method_not_allowed(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    refused(api.send("POST", "configmaps", "a", config_map("a")), 405, "MethodNotAllowed")


@pytest.mark.parametrize("name", ["Upper", "under_score", "-dash", "a" * 254, "sla/sh".replace("/", "%2F")])
def test_names_are_dns_subdomains(api: Api, name: str) -> None:
    status = refused(api.send("POST", "configmaps", body=config_map(name)), 422, "Invalid")
    assert {cause["field"] for cause in status["details"]["causes"]} == {"metadata.name"}


def test_new_objects_may_not_carry_a_version(api: Api) -> None:
    response = api.send("POST", "configmaps", body=config_map("a", resourceVersion="5"))
    assert response.status_code >= 400
    assert "resourceVersion should not be set on objects to be created" in response.json()["message"]


def test_generation_starts_at_one(api: Api) -> None:
    assert generation(api.create("deployments", deployment("web"))) == 1


@pytest.mark.parametrize(
    ("patch", "grows"),
    [
        ({"spec": {"replicas": 3}}, True),
        ({"spec": {"template": {"metadata": {"labels": {"more": "yes"}}}}}, True),
        ({"spec": {"paused": True}}, True),
        ({"metadata": {"labels": {"more": "yes"}}}, False),
        ({"metadata": {"finalizers": ["example.dev/hold"]}}, False),
    ],
    ids=["replicas", "template", "paused", "labels", "finalizers"],
)
def test_generation_counts_spec_changes_only(api: Api, patch: dict[str, Any], grows: bool) -> None:
    api.create("deployments", deployment("web", replicas=0))
    patched = api.patch("deployments", "web", patch)
    assert generation(patched) == (2 if grows else 1)
    if "finalizers" in patched["metadata"]:
        api.patch("deployments", "web", {"metadata": {"finalizers": None}})


def test_generation_of_metadata_annotations_on_deployments(api: Api) -> None:
    """Annotations of Deployments count as spec, unlike those of other kinds: they are copied to the ReplicaSets."""
    api.create("deployments", deployment("web", replicas=0))
    patched = api.patch("deployments", "web", {"metadata": {"annotations": {"example.dev/x": "1"}}})
    assert generation(patched) == 2


def test_generation_cannot_be_set(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0))
    assert generation(api.patch("deployments", "web", {"metadata": {"generation": 40}})) == 1


def test_kinds_without_spec_have_no_generation(api: Api) -> None:
    assert "generation" not in api.create("configmaps", config_map("a"))["metadata"]


def test_unknown_fields_of_builtin_kinds_are_dropped(api: Api) -> None:
    made = api.create("deployments", deployment("web", replicas=0, colour="blue"))
    assert "colour" not in made["spec"]


def test_nulls_are_dropped(api: Api) -> None:
    made = api.create("deployments", deployment("web", replicas=None, paused=None))
    assert made["spec"]["replicas"] == 1
    assert "paused" not in made["spec"]


def test_names_may_be_reused_after_deletion(api: Api) -> None:
    first = api.create("configmaps", config_map("a"))
    api.delete("configmaps", "a")
    second = api.create("configmaps", config_map("a"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
