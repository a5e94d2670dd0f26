"""The three patch formats besides apply: JSON patch, merge patch, strategic merge patch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import PATCHES, Api, refused, version
from tests.conformance.objects import IMAGE, Object, config_map, container, deployment, service, widget


def containers(obj: Object) -> list[Object]:
    found: list[Object] = obj["spec"]["template"]["spec"]["containers"]
    return found


def pod_patch(spec: Object) -> Object:
    return {"spec": {"template": {"spec": spec}}}


def test_merge_patch_sets_and_removes(api: Api) -> None:
    api.create("configmaps", config_map("a", {"a": "1", "b": "2"}))
    patched = api.patch("configmaps", "a", {"data": {"a": None, "b": "3", "c": "4"}})
    assert patched["data"] == {"b": "3", "c": "4"}


def test_merge_patch_replaces_lists(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0, containers=[container("one"), container("two")]))
    patched = api.patch("deployments", "web", pod_patch({"containers": [container("three")]}))
    assert [item["name"] for item in containers(patched)] == ["three"]


def test_merge_patch_with_a_stale_version_conflicts(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    api.patch("configmaps", "a", {"data": {"a": "2"}})
    stale = {"metadata": {"resourceVersion": version(made)}, "data": {"a": "3"}}
    refused(api.send("PATCH", "configmaps", "a", stale, type=PATCHES["merge"]), 409, "Conflict")


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([{"op": "add", "path": "/data/c", "value": "3"}], {"a": "1", "b": "2", "c": "3"}),
        ([{"op": "replace", "path": "/data/a", "value": "9"}], {"a": "9", "b": "2"}),
        ([{"op": "remove", "path": "/data/a"}], {"b": "2"}),
        ([{"op": "move", "from": "/data/a", "path": "/data/c"}], {"b": "2", "c": "1"}),
        ([{"op": "copy", "from": "/data/a", "path": "/data/c"}], {"a": "1", "b": "2", "c": "1"}),
        (
            [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/b"}],
            {"a": "1"},
        ),
    ],
    ids=["add", "replace", "remove", "move", "copy", "test"],
)
def test_json_patch(api: Api, operations: list[Object], expected: dict[str, str]) -> None:
    api.create("configmaps", config_map("a", {"a": "1", "b": "2"}))
    assert api.patch("configmaps", "a", operations, "json")["data"] == expected


@pytest.mark.parametrize(
    ("operations", "code", "reason"),
    [
        ([{"op": "test", "path": "/data/a", "value": "other"}], 422, "Invalid"),
        ([{"op": "remove", "path": "/data/ghost"}], 422, "Invalid"),
        ({"op": "remove"}, 400, "BadRequest"),
    ],
    ids=["test fails", "no such path", "not a list"],
)
def test_json_patch_that_cannot_be_applied(api: Api, operations: Any, code: int, reason: str) -> None:
    api.create("configmaps", config_map("a"))
    refused(api.send("PATCH", "configmaps", "a", operations, type=PATCHES["json"]), code, reason)
    assert api.get("configmaps", "a")["data"] == {"a": "1"}


def test_strategic_patch_merges_containers_by_name(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0, containers=[container("one"), container("two")]))
    patch = pod_patch({"containers": [{"name": "two", "image": "other:2"}, container("three")]})
    patched = containers(api.patch("deployments", "web", patch, "strategic"))
    assert {item["name"]: item["image"] for item in patched} == {"one": IMAGE, "two": "other:2", "three": IMAGE}


def test_strategic_patch_merges_env_and_ports(api: Api) -> None:
    main = container(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], ports=[{"containerPort": 80}])
    api.create("deployments", deployment("web", replicas=0, containers=[main]))
    change = {"name": "main", "env": [{"name": "B", "value": "3"}], "ports": [{"containerPort": 81}]}
    (patched,) = containers(api.patch("deployments", "web", pod_patch({"containers": [change]}), "strategic"))
    assert {item["name"]: item["value"] for item in patched["env"]} == {"A": "1", "B": "3"}
    assert {port["containerPort"] for port in patched["ports"]} == {80, 81}


def test_strategic_patch_deletes_list_items(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0, containers=[container("one"), container("two")]))
    patch = pod_patch({"containers": [{"name": "one", "$patch": "delete"}]})
    assert [item["name"] for item in containers(api.patch("deployments", "web", patch, "strategic"))] == ["two"]


def test_strategic_patch_replaces_on_demand(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0, containers=[container("one"), container("two")]))
    patch = pod_patch({"containers": [{"$patch": "replace"}, container("three")]})
    assert [item["name"] for item in containers(api.patch("deployments", "web", patch, "strategic"))] == ["three"]


def test_strategic_patch_replaces_a_map_on_demand(api: Api) -> None:
    api.create("configmaps", config_map("a", {"a": "1", "b": "2"}))
    patched = api.patch("configmaps", "a", {"data": {"$patch": "replace", "c": "3"}}, "strategic")
    assert patched["data"] == {"c": "3"}


def test_strategic_patch_orders_items_on_demand(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0, containers=[container("one"), container("two")]))
    order = [{"name": "three"}, {"name": "two"}, {"name": "one"}]
    patch = pod_patch({"$setElementOrder/containers": order, "containers": [container("three")]})
    patched = containers(api.patch("deployments", "web", patch, "strategic"))
    assert [item["name"] for item in patched] == ["three", "two", "one"]


def test_strategic_patch_retains_keys_on_demand(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0))
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert api.patch("deployments", "web", patch, "strategic")["spec"]["strategy"] == {"type": "Recreate"}


def test_strategic_patch_removes_from_primitive_lists(api: Api) -> None:
    api.create("configmaps", config_map("a", finalizers=["example.dev/one", "example.dev/two"]))
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.dev/one"]}}
    patched = api.patch("configmaps", "a", patch, "strategic")
    assert patched["metadata"]["finalizers"] == ["example.dev/two"]
    api.patch("configmaps", "a", {"metadata": {"finalizers": None}})


def test_strategic_patch_merges_service_ports(api: Api) -> None:
    api.create("services", service("web", ports=[{"name": "http", "port": 80}]))
    patch = {"spec": {"ports": [{"name": "metrics", "port": 9090}]}}
    patched = api.patch("services", "web", patch, "strategic")
    assert {port["port"] for port in patched["spec"]["ports"]} == {80, 9090}


def test_strategic_patch_null_removes(api: Api) -> None:
    api.create("configmaps", config_map("a", labels={"x": "1", "y": "2"}))
    patched = api.patch("configmaps", "a", {"metadata": {"labels": {"x": None}}}, "strategic")
    assert patched["metadata"]["labels"] == {"y": "2"}


def test_custom_resources_have_no_strategic_patch(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    response = api.send("PATCH", "widgets", "a", {"spec": {"size": 2}}, type=PATCHES["strategic"])
    refused(response, 415, "UnsupportedMediaType")


def test_custom_resources_take_merge_and_json_patch(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    assert api.patch("widgets", "a", {"spec": {"size": 2}})["spec"]["size"] == 2
    change = [{"op": "replace", "path": "/spec/size", "value": 3}]
    assert api.patch("widgets", "a", change, "json")["spec"]["size"] == 3


def test_unknown_patch_formats_are_refused(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    response = api.send("PATCH", "configmaps", "a", {"data": {}}, type="application/json")
    refused(response, 415, "UnsupportedMediaType")


def test_patching_what_is_missing(api: Api) -> None:
    refused(api.send("PATCH", "configmaps", "ghost", {}, type=PATCHES["merge"]), 404, "NotFound")


def test_patches_are_validated(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0))
    response = api.send("PATCH", "deployments", "web", {"spec": {"replicas": -1}}, type=PATCHES["merge"])
    refused(response, 422, "Invalid")


def test_a_patch_cannot_rename(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    response = api.send("PATCH", "configmaps", "a", {"metadata": {"name": "b"}}, type=PATCHES["merge"])
    refused(response, 400, "BadRequest")


def test_patches_cannot_touch_the_identity(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    patched = api.patch("configmaps", "a", {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}})
    assert patched["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
