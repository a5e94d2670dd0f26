"""An LGP that the listener stopped: it has no pods but its database, and its conditions say why."""

from __future__ import annotations

from typing import Any

import pytest

from engine import names
from engine.ports import Manifest
from tests.support.operator import NAME, lgp_manifest, started

CRASH = "it ended with exit code 3\nlast log lines:\nModuleNotFoundError: No module named 'agent'"


def stopped_lgp() -> Manifest:
    """Return the LGP that the listener writes after its revision crashed."""
    manifest = lgp_manifest(serverSpec={"replicas": 0})
    annotations = {names.STOPPED_ANNOTATION: "CrashLoopBackOff", names.STOPPED_MESSAGE_ANNOTATION: CRASH}
    manifest["metadata"]["annotations"] = annotations
    return manifest


def test_a_stopped_lgp_has_no_pods_but_its_database_and_says_why() -> None:
    world = started(autoscaling={"enabled": True, "minReplicas": 2, "maxReplicas": 8})
    world.cluster.put(stopped_lgp())
    world.run()

    replicas = {
        k.name.removeprefix(NAME): m["spec"].get("replicas")
        for k, m in world.cluster.objects.items()
        if k.kind in ("Deployment", "StatefulSet")
    }
    assert replicas == {"": 0, "-queue": 0, "-redis": 1, "-db": 1}
    assert not [key for key in world.cluster.objects if key.kind == "HorizontalPodAutoscaler"], (
        "no autoscaler scales it up"
    )
    conditions = {kind: world.condition(kind) for kind in ("Available", "Progressing", "Degraded", "DatabaseReady")}
    assert {kind: (c["status"], c["reason"]) for kind, c in conditions.items()} == {
        "Available": ("False", "CrashLoopBackOff"),
        "Progressing": ("False", "Stopped"),
        "Degraded": ("True", "CrashLoopBackOff"),
        "DatabaseReady": ("True", "Ready"),
    }
    assert "scaled to zero" in conditions["Degraded"]["message"]
    assert "No module named 'agent'" in conditions["Degraded"]["message"], "the output of the crash stays"


def test_an_lgp_that_is_started_again_is_like_any_other() -> None:
    world = started()
    world.cluster.put(stopped_lgp())
    world.run()
    world.cluster.put(lgp_manifest("r2"))
    world.run()

    assert world.condition("Available")["status"] == "True"
    assert world.condition("Degraded")["status"] == "False"
    assert world.cluster.objects[world.find("Deployment")]["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    "spec",
    [
        {"serverSpec": {"replicas": 3}},
        {"serverSpec": {"replicas": 0}, "autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 3}},
    ],
)
def test_another_listener_that_leaves_the_annotations_starts_it_again(spec: dict[str, Any]) -> None:
    world = started()
    world.cluster.put(stopped_lgp())
    world.run()
    manifest = stopped_lgp()
    manifest["spec"] = lgp_manifest("r2", **spec)["spec"]
    world.cluster.put(manifest)
    world.run()

    assert world.condition("Available")["status"] == "True"
    assert world.condition("Degraded")["status"] == "False"


def test_a_reason_that_a_condition_cannot_have_is_replaced() -> None:
    world = started()
    manifest = stopped_lgp()
    manifest["metadata"]["annotations"][names.STOPPED_ANNOTATION] = "A" * 1025
    world.cluster.put(manifest)
    world.run()

    assert world.condition("Degraded")["reason"] == "RevisionFailed"
