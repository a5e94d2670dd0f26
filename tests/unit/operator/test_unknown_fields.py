"""Fields of an LGP that the operator does not know: it names them without their values, and refuses none."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from engine.operator.lgp.unknown_fields import LONGEST_PATH, MOST_UNKNOWN, unknown_fields
from tests.support.operator import NAME, STREAM, OperatorWorld, lgp_manifest, shared_ingress, started

NEWER = {
    "serverSpec": {"warmPool": {"size": 3}, "env": [{"name": "A", "value": "1", "shown": "sk-secret"}]},
    "managedResources": {"bucket": {"name": "b"}},
    "autoscaling": {"enabled": False, "scaleToZero": "sk-secret"},
    "sandbox": {"token": "sk-secret"},
}
NAMED = (
    "spec.serverSpec.env[].shown",
    "spec.serverSpec.warmPool",
    "spec.managedResources.bucket",
    "spec.autoscaling.scaleToZero",
    "spec.sandbox",
)


def test_an_lgp_of_a_newer_listener_is_served_and_its_unknown_fields_are_named_once() -> None:
    world = started(**NEWER)

    ignored = world.condition("IgnoredFields")
    assert (ignored["status"], ignored["reason"]) == ("True", "UnknownFields")
    assert all(path in ignored["message"] for path in NAMED)
    assert world.condition("Available")["status"] == "True"
    assert "UnknownFields" in world.state().last_reason
    (observed,) = [r.data for r in world.events.read(STREAM) if r.type == "LgpObserved"]
    assert sorted(observed["unknown_fields"]) == sorted(NAMED)
    assert "sk-secret" not in str([record.data for record in world.events.read(STREAM)])


def test_a_field_in_snake_case_is_unknown_and_has_no_effect() -> None:
    world = started(serverSpec={"queue_enabled": False}, node_selector={"a": "b"})

    message = world.condition("IgnoredFields")["message"]
    assert all(path in message for path in ("spec.serverSpec.queue_enabled", "spec.node_selector"))
    assert world.condition("Available")["status"] == "True"
    deployments = [made for key, made in world.cluster.objects.items() if key.kind == "Deployment"]
    assert deployments
    assert "nodeSelector" not in str(deployments)


def test_an_lgp_without_unknown_fields_has_no_condition() -> None:
    world = started()

    assert "IgnoredFields" not in str(world.cluster.objects)


def test_the_condition_goes_with_the_fields() -> None:
    world = started(**NEWER)
    world.cluster.put(lgp_manifest("r2"))
    world.run()

    assert "IgnoredFields" not in [c["type"] for c in world.state().status["conditions"]]


def test_fields_that_kubernetes_validates_are_not_inspected() -> None:
    containers = [{"name": "c", "image": "i", "aFieldOfTomorrow": 1}]
    spec = lgp_manifest(serverSpec={"sidecars": containers, "volumes": [{"name": "v", "new": {}}]}, affinity={"new": 1})

    assert unknown_fields(spec["spec"]) == ()


@pytest.mark.parametrize("odd", [None, 1, "x", [1], {"serverSpec": 1}, {"serverSpec": {"env": {"a": 1}}}])
def test_odd_shapes_do_no_harm(odd: Any) -> None:
    assert unknown_fields(odd) == (
        ("spec.serverSpec.env.a",) if isinstance(odd, dict) and odd["serverSpec"] != 1 else ()
    )


def test_a_flood_is_cut() -> None:
    found = unknown_fields({f"field{number}": "x" for number in range(100)} | {"f" * 500: 1})

    assert len(found) == MOST_UNKNOWN + 1
    assert found[-1] == "…"
    assert max(len(path) for path in unknown_fields({"f" * 500: 1})) == LONGEST_PATH


def test_an_lgp_that_was_observed_before_they_were_named_still_folds() -> None:
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run()
    (record,) = [r for r in world.events.read(STREAM) if r.type == "LgpObserved"]
    old = {key: value for key, value in record.data.items() if key != "unknown_fields"}

    event = world.machine.events.decode(dataclasses.replace(record, data=old))

    assert event.unknown_fields == ()  # type: ignore[attr-defined]
    assert NAME in str(event)
