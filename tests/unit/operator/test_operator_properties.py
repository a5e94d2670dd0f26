"""Properties for any order of events: decisions end, replays agree, and the cluster becomes what the LGP asks for."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.digests import canonical
from engine.errors import ObjectRefused
from engine.operator.machine import OperatorMachine
from engine.operator.plan import INGRESS_PATH_KIND
from engine.operator.state import Life, OperatorState
from engine.ports import ObjectKey, lgp_key
from engine.runtime.machine import Done
from engine.runtime.values import from_json, to_json
from tests.support.operator import CONFIG, NAME, NAMESPACE, STREAM, OperatorWorld, lgp_manifest, shared_ingress

LGP = lgp_key(NAMESPACE, NAME)

switches = st.fixed_dictionaries(
    {"redis": st.booleans(), "database": st.booleans(), "ingress": st.booleans(), "queue": st.booleans()}
)
changes = st.one_of(
    st.tuples(st.just("spec"), st.sampled_from(["r1", "r2", "r3"]), switches),
    st.tuples(st.just("delete"), st.integers(0, 20)),
    st.tuples(st.just("edit"), st.integers(0, 20)),
    st.tuples(
        st.just("reject"), st.sampled_from(["Deployment", "Service", "StatefulSet"]), st.sampled_from([403, 422])
    ),
    st.tuples(st.just("accept")),
    st.tuples(st.just("down"), st.booleans()),
    st.tuples(st.just("delete the LGP")),
    st.tuples(st.just("lose the Ingress")),
    st.tuples(st.just("work"), st.floats(0.5, 20)),
    st.tuples(st.just("only watch")),
)


def spec(revision: str, on: dict[str, bool]) -> dict[str, Any]:
    return lgp_manifest(
        revision,
        serverSpec={"queueEnabled": on["queue"]},
        database={"enabled": on["database"], "secretName": f"{NAME}-db"},
        redis={"enabled": on["redis"]},
        ingress={"enabled": on["ingress"]},
    )


def happen(world: OperatorWorld, change: tuple[Any, ...]) -> None:
    cluster = world.cluster
    mine = sorted((key for key in cluster.objects if key.kind not in ("LGP", "Ingress", "Secret")), key=str)
    match change:
        case ("spec", revision, on):
            cluster.put(spec(revision, on))
        case ("delete", number) if mine:
            cluster.delete(mine[number % len(mine)]) if not cluster.down else None
        case ("edit", number) if mine:
            cluster.edit(mine[number % len(mine)])
        case ("reject", kind, status):
            refusal = ObjectRefused(f"no {kind} today", reason="No", status=status)
            cluster.rejects = lambda key: refusal if key.kind == kind else None
        case ("accept",):
            cluster.rejects = lambda key: None
        case ("down", down):
            cluster.down = down
        case ("delete the LGP",):
            cluster.objects.pop(LGP, None)
        case ("lose the Ingress",):
            cluster.put(shared_ingress())
        case ("work", seconds):
            world.run(seconds)
        case ("only watch",):
            world.watch()


def check_cluster(world: OperatorWorld) -> None:
    """Assert that the cluster is what the LGP asks for: each planned object as planned, and no other object of ours."""
    state = world.state()
    plan = world.machine.plan(state)
    ours = {str(key) for key in world.cluster.objects if key.kind not in ("LGP", "Ingress")}
    if LGP not in world.cluster.objects:
        assert ours == set()
        assert state.life in (Life.UNKNOWN, Life.PRUNED)
        return
    kept = {key for key, entry in state.objects.items() if entry.applied.credential or f"{NAME}-db" in key}
    wanted = {key for key, one in plan.objects.items() if one.key.kind != INGRESS_PATH_KIND}
    assert wanted <= ours <= wanted | kept
    for one in plan.objects.values():
        if one.manifest is not None:
            live = world.cluster.objects[one.key]
            assert "edited" not in live["spec"]
            assert live["spec"].keys() == one.manifest["spec"].keys()
    ingress = world.cluster.objects[world.find("Ingress", name="shared")]
    paths = [path["path"] for rule in ingress["spec"]["rules"] for path in (rule.get("http") or {}).get("paths", [])]
    assert paths == [one.ingress_path.path for one in plan.objects.values() if one.ingress_path is not None]
    status = world.cluster.objects[LGP]["status"]
    assert status["observedGeneration"] == world.cluster.objects[LGP]["metadata"]["generation"]
    assert world.condition("Available")["status"] == "True"
    assert world.condition("Degraded")["status"] == "False"


def state_of(world: OperatorWorld, machine: OperatorMachine) -> OperatorState:
    state = machine.initial
    for record in world.events.read(STREAM):
        state = machine.evolve(state, machine.events.decode(record), record.at)
    return state


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(changes, max_size=12))
def test_the_cluster_converges_whatever_happened(happenings: list[tuple[Any, ...]]) -> None:
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    for change in happenings:
        happen(world, change)

    world.cluster.down = False
    world.cluster.rejects = lambda key: None
    if LGP in world.cluster.objects:  # a manifest that the API server rejected for good is sent again when it changes
        world.cluster.put(lgp_manifest("fixed", labels={"fixed": "yes"}))
    world.run(60)
    world.clock.move(3600)  # every other rejected manifest has been tried again by now
    world.run(60)

    check_cluster(world)
    before = world.events.version(STREAM)
    world.run(20)
    assert world.events.version(STREAM) == before
    assert isinstance(world.machine.decide(world.state(), world.clock.at), Done)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(changes, max_size=8))
def test_a_replay_gives_the_same_states_decisions_and_manifests(happenings: list[tuple[Any, ...]]) -> None:
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    for change in happenings:
        happen(world, change)

    one, other = OperatorMachine(CONFIG), OperatorMachine(CONFIG)
    first, second = state_of(world, one), state_of(world, other)

    assert canonical(to_json(first)) == canonical(to_json(second))
    assert from_json(OperatorState, canonical(to_json(first))) == first
    assert one.decide(first, world.clock.at) == other.decide(second, world.clock.at)
    assert canonical(one.manifests(first)) == canonical(other.manifests(second))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(changes, max_size=8))
def test_one_advance_always_ends(happenings: list[tuple[Any, ...]]) -> None:
    world = OperatorWorld()
    world.cluster.put(lgp_manifest())
    for change in happenings:
        happen(world, change)
        advanced = world.advance()

        assert advanced.outcome in ("acknowledged", "waiting")
        assert advanced.acts < 10


def test_two_lgps_share_one_ingress() -> None:
    other = "world-0123456789abcdef0123456789abcdef"
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.cluster.put(lgp_manifest(name=other))
    world.run()

    world.cluster.delete(ObjectKey(api_version=LGP.api_version, kind=LGP.kind, namespace=NAMESPACE, name=other))
    world.run()

    check_cluster(world)
