"""Which writer sets the number of replicas, how the number changes hands, and what a missing autoscaler reports.

tests/integration/test_autoscaling.py does the same with real API servers.
"""

from __future__ import annotations

from typing import Any

import pytest

from engine import names
from engine.errors import ObjectConflict, ObjectRefused
from engine.operator import scaling
from engine.operator.config import OperatorConfig, SharedIngress
from engine.ports import Manifest, ObjectKey
from tests.support.operator import CONFIG, NAME, NAMESPACE, OperatorWorld, lgp_manifest, shared_ingress

BOUNDS = {"enabled": True, "minReplicas": 2, "maxReplicas": 8}
KEDA = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com"), keda_enabled=True)


def owned_by(manager: str, operation: str = "Apply", **fields: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {f"f:{name}": {} for name in fields}}}


def live(*entries: dict[str, Any]) -> Manifest:
    return {"metadata": {"managedFields": list(entries)}}


def autoscaled(config: OperatorConfig = CONFIG, world: OperatorWorld | None = None, **bounds: int) -> OperatorWorld:
    world = world or OperatorWorld(config=config)
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(autoscaling={**BOUNDS, **bounds}))
    world.run()
    return world


def unserved(world: OperatorWorld, kind: str) -> OperatorWorld:
    """Make the API server not serve a kind."""
    world.cluster.unserved.add(kind)
    return world


def test_we_give_up_the_ownership_of_the_replicas_and_nothing_else() -> None:
    ours, theirs = owned_by("us", replicas=3, template={}), owned_by("them", "Update", replicas=3)

    assert scaling.without_replicas(live(ours, theirs), "us") == [owned_by("us", template={}), theirs]


@pytest.mark.parametrize(
    "entries",
    [(), (owned_by("us", template={}),), (owned_by("us", "Update", replicas=3),), (owned_by("them", replicas=3),)],
    ids=["no manager", "ours without it", "ours, not applied", "theirs"],
)
def test_without_ownership_of_the_replicas_there_is_nothing_to_give_up(entries: tuple[dict[str, Any], ...]) -> None:
    assert scaling.without_replicas(live(*entries), "us") is None


@pytest.mark.parametrize(("config", "queue"), [(CONFIG, 1), (KEDA, 1)], ids=["HPA", "KEDA"])
def test_a_deployment_starts_with_the_autoscalers_minimum_and_at_least_one(config: OperatorConfig, queue: int) -> None:
    world = autoscaled(config, queueMinReplicas=0)

    created = {
        key.name: manifest["spec"] for key, manifest in world.cluster.objects.items() if key.kind == "Deployment"
    }
    assert "replicas" not in created[NAME]
    scalers = [m for k, m in world.cluster.objects.items() if scaling.is_autoscaler(k)]
    assert scaling.first_replicas(NAME, scalers) == 2
    assert scaling.first_replicas(f"{NAME}-queue", scalers) == queue
    assert scaling.first_replicas("another", scalers) == 1


def test_a_change_of_replicas_is_no_drift_with_an_autoscaler_and_is_drift_without() -> None:
    world = autoscaled()
    scale(world, 5)
    world.run()
    assert "DriftDetected" not in world.types()

    world.cluster.put(lgp_manifest(autoscaling={"enabled": False}))
    world.run()
    scale(world, 5)
    world.run()
    (drifted,) = [r.data for r in world.events.read(names.lgp_stream(NAMESPACE, NAME)) if r.type == "DriftDetected"]
    assert drifted["detail"] == "fields that we own were changed or taken over"
    assert world.cluster.objects[world.find("Deployment")]["spec"]["replicas"] == 1


def scale(world: OperatorWorld, replicas: int) -> None:
    """Change the replicas as `kubectl scale` does: an owner of the field loses it to the scale subresource."""
    manifest = world.cluster.objects[world.find("Deployment")]
    scaler = {**owned_by("kubectl", "Update", replicas=replicas), "subresource": "scale"}
    managed = [
        {**entry, "fieldsV1": {**entry["fieldsV1"], "lost": "replicas"}}
        if "replicas" in manifest["spec"] and entry["manager"] == names.OPERATOR_MANAGER
        else entry
        for entry in manifest["metadata"]["managedFields"]
    ]
    managed = [*managed, scaler]
    world.cluster.put({**manifest, "spec": {**manifest["spec"], "replicas": replicas}}, managed=managed)


class Contended:
    """A Deployment whose replicas we set, and whose status another writer keeps changing."""

    def __init__(self, conflicts: int) -> None:
        self.world = OperatorWorld()
        self.world.cluster.put(shared_ingress())
        self.world.cluster.put(lgp_manifest(serverSpec={"queueEnabled": False}))
        self.world.run()
        self.key = self.world.find("Deployment")
        self.conflicts = conflicts
        self.patches: list[Manifest] = []
        self.claim([owned_by(names.OPERATOR_MANAGER, replicas=1)])
        self.world.cluster.patch = self.patch  # type: ignore[method-assign]
        self.world.cluster.put(lgp_manifest(serverSpec={"queueEnabled": False}, autoscaling=BOUNDS))
        self.world.run()

    def claim(self, entries: list[dict[str, Any]]) -> None:
        self.world.cluster.objects[self.key]["metadata"]["managedFields"] = entries

    def patch(self, key: ObjectKey, patch: Manifest, *, before_write: Any = None) -> Manifest:
        self.patches.append(patch)
        if len(self.patches) <= self.conflicts:
            raise ObjectConflict("the object has been modified", status=409)
        self.claim(patch["metadata"]["managedFields"])
        return self.world.cluster.objects[self.key]


def test_a_handover_that_meets_other_writers_is_repeated() -> None:
    contended = Contended(conflicts=3)

    assert len(contended.patches) == 4
    assert all(patch["metadata"].keys() == {"resourceVersion", "managedFields"} for patch in contended.patches)
    assert "ActDeferred" not in contended.world.types()
    assert contended.world.condition("Autoscaling")["status"] == "True"


def test_a_handover_that_always_conflicts_is_deferred_and_nothing_is_written_before() -> None:
    contended = Contended(conflicts=10_000)

    assert contended.world.cluster.objects[contended.key]["spec"]["replicas"] == 1
    (reason, *_) = [deferral.reason for _, deferral in contended.world.state().deferrals]
    assert "was changed by others in each of 12 tries" in reason


def test_a_deployment_scaled_to_zero_is_handed_over_with_the_minimum_of_its_autoscaler() -> None:
    """A HorizontalPodAutoscaler does not scale a Deployment without replicas: no pod would ever start."""
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(serverSpec={"queueEnabled": False, "replicas": 0}))
    world.run()
    key = world.find("Deployment")
    world.cluster.objects[key]["metadata"]["managedFields"] = [owned_by(names.OPERATOR_MANAGER, replicas=0)]
    asked: list[int | None] = []
    apply = world.cluster.apply

    def noted(manifest: Manifest, **named: Any) -> Any:
        if (manifest["kind"], manifest["metadata"]["name"]) == ("Deployment", NAME):
            asked.append(manifest["spec"].get("replicas"))
        return apply(manifest, **named)

    world.cluster.apply = noted  # type: ignore[method-assign]
    world.cluster.put(lgp_manifest(serverSpec={"queueEnabled": False}, autoscaling=BOUNDS))
    world.run()

    assert asked == [2, None]


def test_unplanned_autoscalers_are_deleted_before_any_other_write() -> None:
    world = autoscaled()
    before = len(world.cluster.calls)
    world.cluster.put(lgp_manifest(autoscaling={"enabled": False}))
    world.run()

    made = [(verb, key) for verb, key in world.cluster.calls[before:] if verb in ("apply", "delete")]
    assert made[:3] == [
        ("delete", f"HorizontalPodAutoscaler {NAMESPACE}/{NAME}"),
        ("delete", f"HorizontalPodAutoscaler {NAMESPACE}/{NAME}-queue"),
        ("apply", f"Deployment {NAMESPACE}/{NAME}"),
    ]
    status = world.state().status["conditions"]
    assert "Autoscaling" not in {condition["type"] for condition in status}


def test_without_keda_the_fix_is_reported_and_nothing_else_waits() -> None:
    world = autoscaled(world=unserved(OperatorWorld(config=KEDA), "ScaledObject"))

    condition = world.condition("Autoscaling")
    assert (condition["status"], condition["reason"]) == ("False", "KindNotServed")
    assert "install KEDA" in condition["message"]
    assert world.condition("Available")["status"] == "True"
    assert world.condition("Degraded")["status"] == "False"
    assert world.state().last_reason.startswith("KindNotServed: ")
    assert world.types().count("ObjectRejected") == 2

    world.run(100)
    assert world.types().count("ObjectRejected") == 2 * 3, "after 30 and 60 seconds more"
    world.cluster.unserved.clear()
    world.run(150)
    assert world.condition("Autoscaling")["status"] == "True"
    assert world.state().last_reason == ""


def test_another_rejection_of_an_autoscaler_has_another_reason() -> None:
    world = OperatorWorld()
    refusal = ObjectRefused("exceeded quota", reason="Forbidden", status=403)
    world.cluster.rejects = lambda key: refusal if scaling.is_autoscaler(key) else None
    autoscaled(world=world)

    condition = world.condition("Autoscaling")
    assert (condition["status"], condition["reason"]) == ("False", "ObjectRejected")
    assert "exceeded quota" in condition["message"]
    assert world.condition("Degraded")["status"] == "False"
