"""The subresources status and scale."""

from __future__ import annotations

import pytest

from tests.conformance.client import PATCHES, Api, generation, refused, version
from tests.conformance.objects import Object, deployment, pod, stateful_set, widget


def test_status_updates_leave_the_spec_alone(api: Api) -> None:
    made = api.create("pods", pod("a", spec={"nodeName": "n"}))
    made["spec"]["containers"][0]["image"] = "other:1"
    made["status"] = {"phase": "Running"}
    updated = api.update("pods", made, sub="status")
    assert updated["status"]["phase"] == "Running"
    assert updated["spec"]["containers"][0]["image"] != "other:1"


def test_main_updates_leave_the_status_alone(api: Api) -> None:
    api.create("pods", pod("a"))
    live = api.patch("pods", "a", {"status": {"phase": "Running"}}, sub="status")
    live["status"] = {"phase": "Failed"}
    live["metadata"]["labels"] = {"x": "1"}
    updated = api.update("pods", live)
    assert updated["metadata"]["labels"] == {"x": "1"}
    assert updated["status"]["phase"] == "Running"


def test_status_given_at_creation_is_dropped(api: Api) -> None:
    made = api.create("pods", {**pod("a"), "status": {"phase": "Failed", "message": "no"}})
    assert made["status"]["phase"] == "Pending"
    assert "message" not in made["status"]


def test_status_changes_are_no_new_generation(api: Api) -> None:
    api.create("deployments", deployment("web", paused=True, replicas=0))
    patched = api.patch("deployments", "web", {"status": {"collisionCount": 3}}, sub="status")
    assert patched["status"]["collisionCount"] == 3
    assert generation(patched) == 1


def test_status_has_its_own_get(api: Api) -> None:
    made = api.create("pods", pod("a"))
    assert api.get("pods", "a", sub="status") == made


def test_status_updates_obey_versions(api: Api) -> None:
    made = api.create("pods", pod("a"))
    api.patch("pods", "a", {"metadata": {"labels": {"x": "1"}}})
    refused(api.send("PUT", "pods", "a", made, sub="status"), 409, "Conflict")


def test_pod_conditions_merge_by_type(api: Api) -> None:
    api.create("pods", pod("a"))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    placed = {"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}
    api.patch("pods", "a", ready, "strategic", sub="status")
    patched = api.patch("pods", "a", placed, "strategic", sub="status")
    assert {item["type"] for item in patched["status"]["conditions"]} >= {"Ready", "PodScheduled"}


def test_scale_shows_replicas_and_selector(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0))
    scale = api.get("deployments", "web", sub="scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["metadata"]["name"] == "web"
    assert scale["spec"].get("replicas", 0) == 0
    assert scale["status"]["selector"] == "app=web"


@pytest.mark.parametrize(
    ("resource", "made"),
    [("deployments", deployment("web", paused=True)), ("statefulsets", stateful_set("web", replicas=0))],
    ids=["deployments", "statefulsets"],
)
def test_scaling(api: Api, resource: str, made: Object) -> None:
    before = generation(api.create(resource, made))
    scale = api.get(resource, "web", sub="scale")
    scale["spec"]["replicas"] = 3
    del scale["metadata"]["resourceVersion"]  # the controller may write a status in between
    scaled = api.update(resource, scale, sub="scale")
    assert scaled["spec"]["replicas"] == 3
    live = api.get(resource, "web")
    assert live["spec"]["replicas"] == 3
    assert generation(live) == before + 1


def test_scaling_by_patch(api: Api) -> None:
    api.create("deployments", deployment("web", paused=True))
    assert api.patch("deployments", "web", {"spec": {"replicas": 0}}, sub="scale")["kind"] == "Scale"
    assert api.get("deployments", "web")["spec"]["replicas"] == 0


def test_scale_is_validated(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=0))
    response = api.send("PATCH", "deployments", "web", {"spec": {"replicas": -1}}, sub="scale", type=PATCHES["merge"])
    refused(response, 422, "Invalid")


def test_scale_of_what_is_missing(api: Api) -> None:
    refused(api.send("GET", "deployments", "ghost", sub="scale"), 404, "NotFound")


def test_unknown_subresources(api: Api) -> None:
    api.create("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    assert api.send("GET", "configmaps", "a", sub="status").status_code == 404


def test_status_of_a_custom_resource(api: Api, widgets: Object) -> None:
    made = api.create("widgets", {**widget("a"), "status": {"phase": "Forged"}})
    assert "status" not in made
    patched = api.patch("widgets", "a", {"status": {"phase": "Ready"}, "spec": {"size": 5}}, sub="status")
    assert patched["status"] == {"phase": "Ready"}
    assert patched["spec"]["size"] == 1
    assert generation(patched) == 1


def test_main_writes_keep_the_status_of_a_custom_resource(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    live = api.patch("widgets", "a", {"status": {"phase": "Ready"}}, sub="status")
    live["spec"]["size"] = 2
    live["status"] = {"phase": "Forged"}
    updated = api.update("widgets", live)
    assert updated["status"] == {"phase": "Ready"}
    assert generation(updated) == 2


def test_a_status_write_that_changes_nothing(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    first = api.patch("widgets", "a", {"status": {"phase": "Ready"}}, sub="status")
    second = api.patch("widgets", "a", {"status": {"phase": "Ready"}}, sub="status")
    assert version(first) == version(second)


def test_scale_of_a_custom_resource(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    api.patch("widgets", "a", {"status": {"replicas": 1, "selector": "app=a"}}, sub="status")
    scale = api.get("widgets", "a", sub="scale")
    assert scale["spec"]["replicas"] == 2
    assert scale["status"] == {"replicas": 1, "selector": "app=a"}
    scale["spec"]["replicas"] = 7
    api.update("widgets", scale, sub="scale")
    assert api.get("widgets", "a")["spec"]["replicas"] == 7
