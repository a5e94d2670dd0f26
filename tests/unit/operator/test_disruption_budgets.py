"""PodDisruptionBudgets of Agent Servers: which workloads have one, and when it is removed."""

from __future__ import annotations

from typing import Any

import pytest

from engine.operator import manifests
from engine.operator.config import OperatorConfig, SharedIngress, Templates
from engine.operator.lgp import parse_lgp
from engine.operator.manifests import covers
from engine.ports import Manifest, ObjectKey
from tests.support.operator import NAME, NAMESPACE, STREAM, OperatorWorld, lgp_manifest, shared_ingress

ON = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com"), pod_disruption_budgets=True)
KEDA = ON.model_copy(update={"keda_enabled": True})
BUDGET = ObjectKey(api_version="policy/v1", kind="PodDisruptionBudget", namespace=NAMESPACE, name=NAME)


def budgets(config: OperatorConfig = ON, **spec: Any) -> dict[str, Manifest]:
    one = parse_lgp(NAMESPACE, NAME, "uid-1", lgp_manifest(**spec)["spec"])
    found = [it for it in manifests.objects(one, config) if it["kind"] == "PodDisruptionBudget"]
    return {it["metadata"]["name"]: it for it in found}


def replicas(count: int | None, **more: Any) -> dict[str, Any]:
    return {"serverSpec": {"replicas": count, **more}}


def asked(config: OperatorConfig = ON, world: OperatorWorld | None = None, **spec: Any) -> OperatorWorld:
    world = world or OperatorWorld(config=config)
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(**(spec or replicas(2))))
    world.run()
    return world


def test_a_workload_of_two_replicas_has_a_budget_and_one_of_one_has_none() -> None:
    assert budgets(**replicas(1)) == {}
    found = budgets(**replicas(2))

    assert NAME in found
    assert found[NAME]["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


def test_a_drain_can_always_proceed() -> None:
    spec = budgets(**replicas(5))[NAME]["spec"]

    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_budget_selects_the_pods_of_its_workload_and_no_others() -> None:
    one = parse_lgp(NAMESPACE, NAME, "uid-1", lgp_manifest(**replicas(3))["spec"])
    found = manifests.objects(one, ON)
    pods = {
        it["metadata"]["name"]: it["spec"]["template"]["metadata"]["labels"]
        for it in found
        if it["kind"] in ("Deployment", "StatefulSet")
    }
    for budget in (it for it in found if it["kind"] == "PodDisruptionBudget"):
        covered = [name for name, labels in pods.items() if covers(budget["spec"]["selector"], labels)]
        assert covered == [budget["metadata"]["name"]]


def test_the_replicas_of_a_template_count() -> None:
    template = Templates().deployment.replace("replicas: ${replicas}", "replicas: 3")
    config = ON.model_copy(update={"templates": Templates(deployment=template)})

    assert NAME in budgets(config, **replicas(None))
    assert NAME not in budgets(**replicas(None))


@pytest.mark.parametrize("config", [ON, KEDA], ids=["HPA", "KEDA"])
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"minReplicas": 1, "maxReplicas": 9}, set()),
        ({"minReplicas": 2, "maxReplicas": 9, "queueMinReplicas": 1}, {NAME}),
        ({"minReplicas": 1, "maxReplicas": 9, "queueMinReplicas": 2}, {f"{NAME}-queue"}),
        ({"minReplicas": 2, "maxReplicas": 9}, {NAME, f"{NAME}-queue"}),
    ],
)
def test_with_autoscaling_the_fewest_replicas_count(
    config: OperatorConfig, bounds: dict[str, int], expected: set[str]
) -> None:
    assert set(budgets(config, autoscaling={"enabled": True, **bounds})) == expected


def test_switched_off_there_are_none() -> None:
    assert budgets(ON.model_copy(update={"pod_disruption_budgets": False}), **replicas(4)) == {}


# --- in the cluster


def test_a_budget_goes_when_the_replicas_fall_below_two() -> None:
    world = asked()
    assert BUDGET in world.cluster.objects

    world.cluster.put(lgp_manifest(**replicas(1)))
    world.run()

    assert BUDGET not in world.cluster.objects


def test_a_budget_goes_when_it_is_switched_off() -> None:
    world = asked()
    off = OperatorWorld(config=OperatorConfig(ingress=ON.ingress), cluster=world.cluster, clock=world.clock)
    off.events = off.loop._events = world.events
    world.events.work_token(STREAM)
    off.advance()

    assert BUDGET not in world.cluster.objects


@pytest.mark.parametrize("change", ["deleted", "edited"])
def test_drift_is_repaired(change: str) -> None:
    world = asked()
    if change == "deleted":
        del world.cluster.objects[BUDGET]
    else:
        world.cluster.edit(BUDGET)
    world.run()

    drifts = [r.data for r in world.events.read(STREAM) if r.type == "DriftDetected"]
    assert [(d["key"]["kind"], d["change"]) for d in drifts] == [("PodDisruptionBudget", change)]
    assert world.cluster.objects[BUDGET]["spec"]["maxUnavailable"] == 1
    assert "edited" not in world.cluster.objects[BUDGET]["spec"]


def theirs(name: str = "by-hand", **selector: Any) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"minAvailable": 1, "selector": selector}
    return {"apiVersion": BUDGET.api_version, "kind": BUDGET.kind, "metadata": metadata, "spec": spec}


def test_beside_a_budget_of_the_same_pods_ours_is_not_made_and_the_condition_names_it() -> None:
    world = OperatorWorld(config=ON)
    world.cluster.put(theirs(matchLabels={"app": NAME}))
    asked(world=world)

    assert BUDGET not in world.cluster.objects
    condition = world.condition("DisruptionBudgets")
    assert condition["status"] == "False"
    assert "PodDisruptionBudget by-hand selects the same pods" in condition["message"]
    assert world.condition("Degraded")["status"] == "False"
    assert "by-hand" in world.state().last_reason

    del world.cluster.objects[world.find("PodDisruptionBudget", name="by-hand")]
    world.run(5)
    assert BUDGET in world.cluster.objects
    assert "DisruptionBudgets" not in [c["type"] for c in world.state().status["conditions"]]


def test_ours_is_removed_while_another_budget_selects_the_same_pods() -> None:
    world = asked()
    world.cluster.put(theirs(matchExpressions=[{"key": "app", "operator": "In", "values": [NAME]}]))
    world.run()

    assert BUDGET not in world.cluster.objects
    assert "by-hand selects the same pods" in world.condition("DisruptionBudgets")["message"]
    version = world.events.version(STREAM)
    world.run(20)
    assert world.events.version(STREAM) == version, "it is said once"

    del world.cluster.objects[world.find("PodDisruptionBudget", name="by-hand")]
    world.run(5)
    assert BUDGET in world.cluster.objects


def test_a_budget_of_other_pods_makes_no_difference() -> None:
    world = asked()
    version = world.events.version(STREAM)
    world.cluster.put(theirs(matchLabels={"app": "something-else"}))
    world.run()

    assert BUDGET in world.cluster.objects
    assert world.events.version(STREAM) == version


def test_a_namesake_of_a_budget_is_left_as_it_is() -> None:
    world = OperatorWorld(config=ON)
    made = world.cluster.put(theirs(NAME, matchLabels={"app": "something-else"}))
    asked(world=world)

    assert world.cluster.objects[BUDGET] == made
    assert "does not belong to LGP" in world.condition("DisruptionBudgets")["message"]
    assert world.condition("Degraded")["status"] == "False"


@pytest.mark.parametrize(
    ("selector", "covered"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"app": "a"}}, True),
        ({"matchLabels": {"app": "a", "tier": "x"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_which_pods_a_budget_covers(selector: Any, covered: bool) -> None:
    assert covers(selector, {"app": "a"}) is covered
