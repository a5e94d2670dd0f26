"""The operator and its watcher on an embedded and a real API server, with controllers and a stand-in for kubelets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from engine.log.memory import MemoryLog
from engine.operator.state import Life
from engine.ports import Manifest
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.operator_stack import Operator, at_work, lgp_manifest, shared_ingress

NAME = "hello-0123456789abcdef0123456789abcdef"


@pytest.fixture
def operator(api_server: ApiServer, namespace: str) -> Iterator[Operator]:
    with at_work(api_server, namespace) as operator:
        yield operator


def deployed(operator: Operator, name: str = NAME) -> None:
    operator.put(lgp_manifest(operator.namespace, name))
    eventually(lambda: operator.available(name), f"{name} is available")
    operator.quiet(name)


def test_a_first_rollout_comes_up_within_its_budget(operator: Operator) -> None:
    deployed(operator)

    status = operator.lgp(NAME)["status"]
    assert status["endpoint"] == f"https://agents.example.com/lgp/{NAME}"
    assert status["deploymentStatus"]["updateRevision"] == "r1"
    assert status["deploymentStatus"]["availableReplicas"] == 1
    assert status["lastSuccessfulReplicaSet"]["name"].startswith(f"{NAME}-")
    assert operator.condition(NAME, "DatabaseReady")["status"] == "True"
    assert operator.condition(NAME, "Degraded")["status"] == "False"
    assert operator.drifts(NAME) == []
    assert "hunter2" not in "".join(str(record.data) for record in operator.events.read(operator.stream(NAME)))

    mine = [path for path in operator.requests.writes() if NAME in path and not path.endswith("/status")]
    objects = {path: count for path, count in operator.requests.writes().items() if not path.endswith("/status")}
    assert len(mine) == 7, mine  # each object once, the Secret by its collection, the route on the Ingress
    assert set(objects.values()) == {1}, objects
    reads = {path: count for path, count in operator.requests.reads().items() if "lgps" not in path}
    assert set(reads.values()) == {1}, reads


def test_a_resync_of_what_did_not_change_writes_nothing(operator: Operator, api_server: ApiServer) -> None:
    deployed(operator)
    version, made = operator.events.version(operator.stream(NAME)), len(operator.requests.made)

    with Operator(api_server.kubeconfig, operator.namespace, events=operator.events) as resynced:
        eventually(lambda: len(resynced.watcher._threads) >= 8, "the second watcher watches")
        for _ in range(3):
            operator.events.mark_dirty(operator.stream(NAME))
            operator.quiet(NAME)

        assert operator.events.version(operator.stream(NAME)) == version
        assert resynced.requests.made == []
    assert [call for call in operator.requests.made[made:] if call[0] != "GET"] == []


def test_a_new_revision_rolls_out_and_a_failing_one_reports_why(operator: Operator) -> None:
    deployed(operator)

    operator.put(lgp_manifest(operator.namespace, NAME, "r2"))
    eventually(lambda: operator.available(NAME, 2), "r2 is available")
    assert operator.lgp(NAME)["status"]["deploymentStatus"]["updateRevision"] == "r2"

    operator.put(lgp_manifest(operator.namespace, NAME, "missing"))
    eventually(
        lambda: operator.condition(NAME, "Degraded").get("status") == "True", "the condition reports the failure"
    )

    degraded, available = operator.condition(NAME, "Degraded"), operator.condition(NAME, "Available")
    assert degraded["reason"] == "ImagePullBackOff"
    assert "image not found" in degraded["message"]
    assert degraded["observedGeneration"] == 3
    assert available["status"] == "False"
    assert "revision r2 keeps serving" in available["message"]
    assert operator.lgp(NAME)["status"]["deploymentStatus"]["availableReplicas"] == 1

    operator.put(lgp_manifest(operator.namespace, NAME, "r4"))
    eventually(lambda: operator.available(NAME, 4), "r4 is available")
    assert operator.condition(NAME, "Degraded")["status"] == "False"


def test_a_deployment_deleted_and_a_service_edited_by_hand_come_back(operator: Operator) -> None:
    deployed(operator)
    deployment, service = operator.key("Deployment", NAME), operator.key("Service", NAME, "v1")
    uid = operator.uid(deployment)

    operator.watching.delete(deployment)
    operator.watching.patch(service, {"spec": {"selector": {"app": "something-else"}}})

    eventually(lambda: operator.uid(deployment) not in (None, uid), "another Deployment")
    eventually(
        lambda: (operator.cluster.get(service) or {})["spec"]["selector"]["app"] == NAME,
        "the Service's selector is repaired",
    )
    eventually(lambda: operator.condition(NAME, "Available")["status"] == "True", "the Agent Server is available again")
    operator.quiet(NAME)
    assert sorted(operator.drifts(NAME)) == [("Deployment", "deleted"), ("Service", "edited")]
    assert operator.available(NAME)


def test_status_updates_of_controllers_are_no_drift(operator: Operator) -> None:
    deployed(operator)
    scale = {"spec": {"replicas": 3}}
    operator.watching.patch(operator.key("Deployment", f"{NAME}-redis"), {"metadata": {"annotations": {"theirs": "x"}}})
    operator.put(lgp_manifest(operator.namespace, NAME, serverSpec={"replicas": scale["spec"]["replicas"]}))
    eventually(lambda: operator.available(NAME, 2), "three replicas")
    operator.quiet(NAME)

    assert operator.drifts(NAME) == []
    assert operator.lgp(NAME)["status"]["deploymentStatus"]["availableReplicas"] == 3


def test_a_deleted_lgp_leaves_nothing_behind(operator: Operator) -> None:
    deployed(operator)

    operator.watching.delete(operator.key("LGP", NAME, "apps.langchain.ai/v1alpha1"))
    eventually(lambda: operator.state(NAME).life is Life.PRUNED, "the LGP is pruned")

    kinds = [("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("v1", "Service"), ("v1", "Secret")]
    kinds += [("v1", "PersistentVolumeClaim"), ("v1", "Pod"), ("apps/v1", "ReplicaSet")]
    for api_version, kind in kinds:
        eventually(partial(none_left, operator, api_version, kind), f"no {kind} is left")
    ingress = operator.cluster.get(operator.key("Ingress", "shared", "networking.k8s.io/v1")) or {}
    assert ingress["spec"]["rules"] == [{"host": "agents.example.com"}]
    assert operator.drifts(NAME) == []


def none_left(operator: Operator, api_version: str, kind: str) -> bool:
    """Return whether no object of the kind has the LGP's name, except objects that are being deleted."""
    return not [
        found
        for found in operator.cluster.list(api_version, kind, operator.namespace)
        if NAME in found["metadata"]["name"] and "deletionTimestamp" not in found["metadata"]
    ]


def test_a_rejected_object_is_reported_and_the_others_are_applied(operator: Operator) -> None:
    broken: Manifest = {"serverSpec": {"resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "1"}}}}
    operator.put(lgp_manifest(operator.namespace, NAME, **broken))
    eventually(
        lambda: operator.condition(NAME, "Degraded").get("reason") == "ObjectRejected",
        "the condition reports the rejection",
    )

    assert "must be less than or equal to cpu limit" in operator.condition(NAME, "Degraded")["message"]
    assert operator.cluster.get(operator.key("StatefulSet", f"{NAME}-db")) is not None
    assert operator.cluster.get(operator.key("Deployment", NAME)) is None

    mended: Manifest = {"serverSpec": {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}}
    operator.put(lgp_manifest(operator.namespace, NAME, **mended))
    eventually(lambda: operator.available(NAME, 2), "the mended one is available")


def test_many_lgps_lose_nothing_on_one_ingress(api_server: ApiServer, namespace: str) -> None:
    many = [f"a{number}-0123456789abcdef0123456789abcdef" for number in range(6)]
    with at_work(api_server, namespace, workers=6) as operator:
        off: Manifest = {"database": {"enabled": False}, "redis": {"enabled": False}}
        off["serverSpec"] = {"queueEnabled": False}
        for name in many:
            operator.put(lgp_manifest(namespace, name, **off))

        def paths() -> list[str]:
            ingress = operator.cluster.get(operator.key("Ingress", "shared", "networking.k8s.io/v1")) or {}
            rules = ingress["spec"]["rules"]
            return sorted(path["path"] for rule in rules for path in (rule.get("http") or {}).get("paths", []))

        eventually(lambda: paths() == [f"/lgp/{name}" for name in many], "every path is there")
        for name in many[:3]:
            operator.watching.delete(operator.key("LGP", name, "apps.langchain.ai/v1alpha1"))
        eventually(lambda: paths() == [f"/lgp/{name}" for name in many[3:]], "the paths of three are gone")


def test_two_workers_at_once_make_every_object_once(operator: Operator) -> None:
    operator.put(lgp_manifest(operator.namespace, NAME))
    eventually(lambda: operator.types(NAME), "the LGP is observed")
    threads = [threading.Thread(target=operator.dispatch, args=(operator.stream(NAME),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: operator.available(NAME), "the Agent Server is available")

    names = [d["metadata"]["name"] for d in operator.cluster.list("apps/v1", "Deployment", operator.namespace)]
    assert sorted(names) == [NAME, f"{NAME}-queue", f"{NAME}-redis"]


def test_an_ingress_that_comes_later_is_found(api_server: ApiServer, namespace: str) -> None:
    with at_work(api_server, namespace) as operator:
        operator.watching.delete(operator.key("Ingress", "shared", "networking.k8s.io/v1"))
        operator.put(lgp_manifest(namespace, NAME))
        eventually(
            lambda: operator.condition(NAME, "Degraded").get("reason") == "ObjectRejected",
            "the condition reports the missing Ingress",
        )
        assert "create one" in operator.condition(NAME, "Degraded")["message"]

        operator.put(shared_ingress(namespace))
        eventually(
            lambda: operator.condition(NAME, "Degraded").get("status") == "False", "the operator finds the Ingress", 30
        )


def test_a_recorded_log_replays_to_the_same_state(operator: Operator) -> None:
    deployed(operator)
    copied = MemoryLog()
    copied.restore(operator.events.read_all())

    one, other = operator.state(NAME), Operator.state(_With(operator, copied), NAME)  # type: ignore[arg-type]

    assert one == other
    assert operator.machine.manifests(one) == operator.machine.manifests(other)


class _With:
    """The operator with another event log."""

    def __init__(self, operator: Operator, events: MemoryLog) -> None:
        self.machine, self.events, self.stream = operator.machine, events, operator.stream
