"""A shared Ingress in another namespace than the LGPs: a Service beside the Ingress leads to the Agent Server."""

from __future__ import annotations

from typing import Any

import pytest

from engine import names
from engine.errors import ObjectRefused
from engine.operator.config import Gateway, OperatorConfig, SharedIngress
from engine.operator.machine import OperatorMachine
from engine.operator.manifests import label_value
from engine.ports import Manifest, ObjectKey, lgp_key
from tests.support.operator import NAME, NAMESPACE, OperatorWorld, lgp_manifest, shared_ingress

EDGE = "edge"
ELSEWHERE = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com", namespace=EDGE))
INGRESS = ObjectKey(api_version="networking.k8s.io/v1", kind="Ingress", namespace=EDGE, name="shared")
PATH = f"/lgp/{NAME}"


def started(*others: Manifest) -> OperatorWorld:
    world = OperatorWorld(config=ELSEWHERE)
    world.cluster.put(shared_ingress(EDGE))
    for manifest in others:
        world.cluster.put(manifest)
    world.cluster.put(lgp_manifest())
    world.run()
    return world


def external(world: OperatorWorld) -> ObjectKey:
    (key,) = [key for key in world.cluster.objects if (key.kind, key.namespace) == ("Service", EDGE)]
    return key


def backends(world: OperatorWorld) -> dict[str, str]:
    """Service by path, on the shared Ingress."""
    rules = world.cluster.objects[INGRESS]["spec"]["rules"]
    paths = [path for rule in rules for path in rule.get("http", {}).get("paths", [])]
    return {path["path"]: path["backend"]["service"]["name"] for path in paths}


def drifts(world: OperatorWorld) -> list[str]:
    records = world.events.read(names.lgp_stream(NAMESPACE, NAME))
    return [f"{r.data['key']['kind']} {r.data['change']}" for r in records if r.type == "DriftDetected"]


def namesake(namespace: str = "blue", home: str = EDGE) -> list[Manifest]:
    """The path of an LGP of the same name in `namespace`, and the Service beside the Ingress that it leads to."""
    labels = {names.LGP_LABEL: label_value(NAME), names.LGP_NAMESPACE_LABEL: namespace}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "theirs", "namespace": home}}
    service["metadata"]["labels"] = labels  # type: ignore[index]
    ingress = shared_ingress(home)
    backend = {"service": {"name": "theirs", "port": {"number": 8000}}}
    ingress["spec"]["rules"][0]["http"] = {"paths": [{"path": PATH, "pathType": "Prefix", "backend": backend}]}
    return [service, ingress]


def test_the_path_leads_to_a_service_beside_the_ingress() -> None:
    world = started()

    assert backends(world) == {PATH: external(world).name}
    assert world.condition("Degraded")["status"] == "False"
    assert world.cluster.objects[lgp_key(NAMESPACE, NAME)]["status"]["endpoint"] == f"https://agents.example.com{PATH}"
    assert drifts(world) == []


def test_a_resync_without_a_change_writes_nothing() -> None:
    world = started()
    made = len(world.cluster.calls)
    world.observer._external_services_complete = False
    world._shown.clear()
    world._synced.clear()
    world.run()

    assert [call for call in world.cluster.calls[made:] if call[0] in ("apply", "patch", "create", "delete")] == []
    assert drifts(world) == []


def test_an_edited_service_or_path_is_repaired() -> None:
    world = started()
    key = external(world)
    world.cluster.delete(key)
    world.run()
    assert external(world) == key

    world.cluster.edit(key)
    world.run()
    assert "edited" not in world.cluster.objects[key]["spec"]

    world.cluster.put(shared_ingress(EDGE))
    world.run()
    assert backends(world) == {PATH: key.name}
    assert drifts(world) == ["Service deleted", "Service edited", "IngressPath deleted"]


def test_a_deleted_lgp_leaves_nothing_beside_the_ingress() -> None:
    world = started()
    world.cluster.delete(lgp_key(NAMESPACE, NAME))
    world.run()

    assert [(key.kind, key.namespace) for key in world.cluster.objects] == [("Ingress", EDGE)]
    assert backends(world) == {}


def test_without_ingress_the_service_beside_it_goes() -> None:
    world = started()
    world.cluster.put(lgp_manifest("r2", ingress={"enabled": False}))
    world.run()

    assert [key for key in world.cluster.objects if key.namespace == EDGE] == [INGRESS]
    assert backends(world) == {}


def test_an_lgp_does_not_take_the_path_of_its_namesake_in_another_namespace() -> None:
    service, ingress = namesake()
    world = started(service, ingress)

    degraded = world.condition("Degraded")
    assert degraded["reason"] == "ObjectRejected"
    assert (
        f"{PATH} on the shared Ingress in namespace edge leads to the LGP of the same name in namespace blue"
        in (degraded["message"])
    )
    assert backends(world) == {PATH: "theirs"}
    assert world.condition("Available")["status"] == "True", "the rest goes out"

    world.cluster.delete(lgp_key(NAMESPACE, NAME))
    world.run()
    assert backends(world) == {PATH: "theirs"}, "and going, it takes nothing along"


def test_the_path_of_a_removed_namesake_is_free() -> None:
    world = started(*namesake())
    world.cluster.put(shared_ingress(EDGE))
    world.run()

    assert backends(world)[PATH].startswith(f"{NAME}-")
    assert world.condition("Degraded")["status"] == "False"


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "an Ingress of their own": {"ingress": SharedIngress(hostname="agents.example.com")},
    "a gateway": {
        "ingress": SharedIngress(enabled=False),
        "gateway": Gateway(enabled=True, name="front", hostname="agents.example.com"),
    },
}


@pytest.mark.parametrize("allowed", [True, False], ids=["still allowed there", "not allowed there any more"])
@pytest.mark.parametrize("way", OTHER_WAYS)
def test_objects_of_a_former_exposure_are_deleted_as_far_as_our_role_allows(way: str, allowed: bool) -> None:
    world = started()
    world.cluster.put(shared_ingress())
    if not allowed:
        world.cluster.forbids = lambda key: (
            ObjectRefused("cannot", reason="Forbidden", status=403) if key.namespace == EDGE else None
        )
    configured(world, OperatorConfig(**OTHER_WAYS[way]))
    world.run()

    beside = {key.kind for key in world.cluster.objects if key.namespace == EDGE}
    assert beside == ({"Ingress"} if allowed else {"Ingress", "Service"})
    assert world.condition("Degraded")["status"] == "False", "objects of a former exposure are no problem"
    (pruned,) = [r.data for r in world.events.read(names.lgp_stream(NAMESPACE, NAME)) if r.type == "ObjectsPruned"]
    assert len(pruned["left_in_place"]) == (0 if allowed else 2)


def test_a_missing_permission_beside_the_ingress_in_use_is_reported() -> None:
    world = started()
    refused = ObjectRefused("services is forbidden: cannot delete", reason="Forbidden", status=403)
    world.cluster.forbids = lambda key: refused if (key.kind, key.namespace) == ("Service", EDGE) else None
    world.cluster.put(lgp_manifest("r2", ingress={"enabled": False}))
    world.run()

    assert world.condition("Degraded")["reason"] == "Refused"
    assert "cannot delete" in world.condition("Degraded")["message"]


def configured(world: OperatorWorld, config: OperatorConfig) -> None:
    """Start the processes again with another configuration; the log stays."""
    again = OperatorWorld(config=config, clock=world.clock, cluster=world.cluster)
    again.loop._events = again.events = world.events
    world.machine, world.observer, world.loop = OperatorMachine(config), again.observer, again.loop
    world._shown, world._synced, world._position = {}, set(), 0
    world.events.mark_dirty(names.lgp_stream(NAMESPACE, NAME))
