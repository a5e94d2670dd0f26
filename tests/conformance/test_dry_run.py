"""dryRun=All: all checks and defaults of a write, without the write."""

from __future__ import annotations

from tests.conformance.client import Api, refused, succeeded, version
from tests.conformance.objects import Object, config_map, deployment, widget


def test_create(api: Api) -> None:
    shown = api.create("deployments", deployment("web"), dryRun="All")
    assert shown["spec"]["replicas"] == 1
    assert shown["metadata"]["uid"]
    assert api.find("deployments", "web") is None


def test_create_is_validated(api: Api) -> None:
    response = api.send("POST", "deployments", body=deployment("web", replicas=-1), dryRun="All")
    refused(response, 422, "Invalid")


def test_create_notices_what_is_there(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    refused(api.send("POST", "configmaps", body=config_map("a"), dryRun="All"), 409, "AlreadyExists")


def test_update(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    shown = api.update("configmaps", {**made, "data": {"a": "2"}}, dryRun="All")
    assert shown["data"] == {"a": "2"}
    assert api.get("configmaps", "a") == made


def test_update_conflicts(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    api.update("configmaps", {**made, "data": {"a": "2"}})
    refused(api.send("PUT", "configmaps", "a", {**made, "data": {"a": "3"}}, dryRun="All"), 409, "Conflict")


def test_patch(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    assert api.patch("configmaps", "a", {"data": {"b": "2"}}, dryRun="All")["data"] == {"a": "1", "b": "2"}
    assert api.get("configmaps", "a") == made


def test_apply(api: Api) -> None:
    assert api.apply("configmaps", config_map("new"), dryRun="All")["data"] == {"a": "1"}
    assert api.find("configmaps", "new") is None
    made = api.apply("configmaps", config_map("a"))
    shown = api.apply("configmaps", config_map("a", {"a": "2"}), dryRun="All")
    assert shown["data"] == {"a": "2"}
    assert version(api.get("configmaps", "a")) == version(made)


def test_apply_shows_conflicts(api: Api) -> None:
    api.apply("configmaps", config_map("a"), "one")
    response = api.try_apply("configmaps", config_map("a", {"a": "2"}), "two", dryRun="All")
    refused(response, 409, "Conflict")


def test_delete(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    succeeded(api.send("DELETE", "configmaps", "a", dryRun="All"))
    assert api.get("configmaps", "a") == made


def test_custom_resources(api: Api, widgets: Object) -> None:
    assert api.create("widgets", widget("a"), dryRun="All")["spec"]["color"] == "red"
    assert api.find("widgets", "a") is None


def test_other_values_are_refused(api: Api) -> None:
    response = api.send("POST", "configmaps", body=config_map("a"), dryRun="Some")
    assert response.status_code in (400, 422)
    assert api.find("configmaps", "a") is None
