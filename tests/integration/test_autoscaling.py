"""Autoscaling of Agent Servers on an embedded and a real API server.

The tests show which writer decides on the replicas, and what the operator reports if the cluster does not serve the
autoscaler's kind. No autoscaler runs here: the tests write what an autoscaler would write.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from engine.listener.state import Phase
from engine.names import lgp_stream
from engine.operator.state import Life
from engine.ports import Manifest
from engine.runtime.backoff import refused_delay
from sandbox.control_plane.server import ControlPlane
from tests.support.api_servers import ApiServer
from tests.support.autoscaling import KEDA, NAME, QUIET, keda_installed
from tests.support.eventually import eventually
from tests.support.listener_stack import KEY, WORKSPACE
from tests.support.listener_stack import at_work as listener_at_work
from tests.support.operator_stack import Kubelet, Operator, at_work, lgp_manifest, shared_ingress

HPA = ("HorizontalPodAutoscaler", "autoscaling/v2")
SCALED_OBJECT = ("ScaledObject", "keda.sh/v1alpha1")
BOUNDS = {"enabled": True, "minReplicas": 2, "maxReplicas": 8, "queueMinReplicas": 0, "queueMaxReplicas": 20}
MADE = ("True", "Unknown")
"""Statuses of the condition Autoscaling once autoscalers are made: Unknown, as nobody looks at them here."""


@pytest.fixture(scope="module")
def http(own_api_server: ApiServer) -> Iterator[httpx.Client]:
    with own_api_server.http() as client:
        yield client


@pytest.fixture
def keda(http: httpx.Client) -> Iterator[None]:
    with keda_installed(http):
        yield


@pytest.fixture
def operator(own_api_server: ApiServer, namespace: str) -> Iterator[Operator]:
    """Return an operator whose configuration enables KEDA."""
    with at_work(own_api_server, namespace, config=KEDA) as operator:
        yield operator


@dataclass
class Replicas:
    """Collects every value of a Deployment's `spec.replicas` that a watch reports."""

    operator: Operator
    name: str
    seen: list[int] = field(default_factory=list)

    def __enter__(self) -> Replicas:
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        eventually(lambda: self.seen, f"the replicas of {self.name} are watched")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        for event in self.operator.watching.watch("apps/v1", "Deployment", self.operator.namespace):
            if self._ended.is_set():
                return
            if event.object.get("metadata", {}).get("name") == self.name:
                replicas = event.object["spec"]["replicas"]
                if self.seen[-1:] != [replicas]:
                    self.seen.append(replicas)


def scale(http: httpx.Client, operator: Operator, name: str, replicas: int) -> None:
    """Do what an autoscaler does: read the scale and write it, as the field manager kube-controller-manager."""
    path = f"/apis/apps/v1/namespaces/{operator.namespace}/deployments/{name}/scale"

    def written() -> bool:
        found = http.get(path).raise_for_status().json()
        found["spec"]["replicas"] = replicas
        return http.put(path, json=found, params={"fieldManager": "kube-controller-manager"}).status_code == 200

    eventually(written, f"{name} is scaled to {replicas}")


def replicas_of(operator: Operator, name: str = NAME) -> int | None:
    found = operator.cluster.get(operator.key("Deployment", name))
    return found["spec"]["replicas"] if found is not None else None


def image_of(operator: Operator) -> str:
    found = operator.cluster.get(operator.key("Deployment", NAME)) or {}
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def rejections(operator: Operator, name: str = NAME) -> list[Manifest]:
    return [r.data for r in operator.events.read(operator.stream(name)) if r.type == "ObjectRejected"]


def bounds(operator: Operator, suffix: str = "") -> tuple[int, int] | None:
    found = operator.cluster.get(operator.key("ScaledObject", f"{NAME}{suffix}", SCALED_OBJECT[1]))
    return (found["spec"]["minReplicaCount"], found["spec"]["maxReplicaCount"]) if found is not None else None


def test_scaling_by_hand_is_undone_without_an_autoscaler(operator: Operator, http: httpx.Client) -> None:
    operator.put(lgp_manifest(operator.namespace, NAME, serverSpec={"replicas": 2}, **QUIET))
    eventually(lambda: operator.available(NAME), "the Agent Server is available")
    operator.quiet(NAME, 1.0)

    scale(http, operator, NAME, 4)

    eventually(lambda: replicas_of(operator) == 2, "there are two again")
    operator.quiet(NAME, 1.0)
    assert operator.drifts(NAME) == [("Deployment", "edited")]


def test_only_the_autoscaler_sets_replicas_while_autoscaling_is_on(
    operator: Operator, own_api_server: ApiServer, http: httpx.Client, keda: None
) -> None:
    namespace = operator.namespace
    operator.put(lgp_manifest(namespace, NAME, serverSpec={"replicas": 3}, **QUIET))
    eventually(lambda: operator.available(NAME), "the Agent Server is available")
    operator.quiet(NAME, 1.0)

    with Replicas(operator, NAME) as replicas:
        # autoscaling is switched on: the operator's three replicas stay
        operator.put(lgp_manifest(namespace, NAME, serverSpec={"replicas": 3}, autoscaling=BOUNDS, **QUIET))
        eventually(
            lambda: operator.condition(NAME, "Autoscaling").get("status") in MADE,
            "the condition reports the autoscaler",
        )
        operator.quiet(NAME, 1.0)
        assert (bounds(operator), bounds(operator, "-queue")) == ((2, 8), (1, 20))
        scale(http, operator, NAME, 5)
        eventually(lambda: replicas.seen == [3, 5], "the autoscaler's number of replicas stays")

        # an edit by hand of another field of the same Deployment is undone
        edit = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7, "containers": [edited(operator)]}}}}
        operator.watching.patch(operator.key("Deployment", NAME), edit)
        eventually(lambda: operator.drifts(NAME) == [("Deployment", "edited")], "the edit is drift")
        eventually(lambda: image_of(operator).endswith("hello:r1"), "the image is as it was")

        # a new revision, a resync, another operator process
        operator.put(lgp_manifest(namespace, NAME, "r2", serverSpec={"replicas": 1}, autoscaling=BOUNDS, **QUIET))
        eventually(lambda: operator.available(NAME, 3), "r2 is available")
        with Operator(own_api_server.kubeconfig, namespace, events=operator.events, config=KEDA) as another:
            operator.events.mark_dirty(operator.stream(NAME))
            operator.quiet(NAME, 1.0)
            another.put(lgp_manifest(namespace, NAME, "r3", autoscaling=BOUNDS, **QUIET))
            eventually(lambda: operator.available(NAME, 4), "r3 is available")
        assert image_of(operator).endswith("hello:r3")

        # a Deployment that a user deletes is created again with the same replicas
        uid = operator.uid(operator.key("Deployment", NAME))
        operator.watching.delete(operator.key("Deployment", NAME))
        eventually(
            lambda: operator.uid(operator.key("Deployment", NAME)) not in (None, uid), "the Deployment is created again"
        )
        operator.quiet(NAME, 1.0)
        assert replicas.seen == [3, 5]

        # autoscaling is switched off: the autoscalers are deleted, and the LGP's number of replicas applies again
        operator.put(lgp_manifest(namespace, NAME, "r3", serverSpec={"replicas": 4}, **QUIET))
        eventually(lambda: replicas.seen == [3, 5, 4], "four, as asked")
        eventually(lambda: bounds(operator) is None and bounds(operator, "-queue") is None, "no autoscaler is left")
        eventually(lambda: operator.condition(NAME, "Autoscaling") == {}, "the condition is removed")


def edited(operator: Operator) -> Manifest:
    """Return a patch that gives the API server's container another image."""
    found = operator.cluster.get(operator.key("Deployment", NAME)) or {}
    return {**found["spec"]["template"]["spec"]["containers"][0], "image": "somebody/else"}


def test_a_missing_keda_is_reported_and_recovers_when_keda_is_installed_again(
    operator: Operator, http: httpx.Client
) -> None:
    """The revision rolls out all the same, with the minimum number of replicas."""
    operator.put(lgp_manifest(operator.namespace, NAME, autoscaling=BOUNDS, **QUIET))
    eventually(lambda: operator.available(NAME), "the Agent Server is available")
    operator.quiet(NAME, 1.0)

    condition = operator.condition(NAME, "Autoscaling")
    assert (condition["status"], condition["reason"]) == ("False", "KindNotServed")
    assert "install KEDA" in condition["message"]
    assert "operator.kedaEnabled: false" in condition["message"]
    assert operator.condition(NAME, "Degraded")["status"] == "False"
    assert (replicas_of(operator), replicas_of(operator, f"{NAME}-queue")) == (2, 1)
    assert "does not serve ScaledObject keda.sh/v1alpha1" in rejections(operator)[0]["message"]
    rejected = operator.state(NAME).rejected.values()
    assert [one.retry_at for one in rejected] == [one.at + refused_delay(one.attempts) for one in rejected]
    assert sum(one.attempts for one in rejected) == len(rejections(operator)) < 8, (
        "the delays between attempts must grow"
    )

    for _ in range(2):
        with keda_installed(http):
            eventually(lambda: bounds(operator) == (2, 8), "the autoscaler is made")
            eventually(
                lambda: operator.condition(NAME, "Autoscaling").get("status") in MADE,
                "the condition reports the autoscaler",
            )
            operator.quiet(NAME, 1.0)
        eventually(
            lambda: operator.condition(NAME, "Autoscaling")["reason"] == "KindNotServed",
            "the condition reports the removal",
            150,
        )
        assert operator.available(NAME)

    operator.watching.delete(operator.key("LGP", NAME, "apps.langchain.ai/v1alpha1"))
    eventually(lambda: operator.state(NAME).life is Life.PRUNED, "the LGP is pruned without KEDA as well")


def test_autoscalers_are_deleted_with_their_lgp(operator: Operator, keda: None) -> None:
    operator.put(lgp_manifest(operator.namespace, NAME, autoscaling=BOUNDS, **QUIET))
    eventually(lambda: bounds(operator) == (2, 8), "the autoscaler is there")

    operator.watching.delete(operator.key("LGP", NAME, "apps.langchain.ai/v1alpha1"))

    eventually(lambda: operator.state(NAME).life is Life.PRUNED, "the LGP is pruned")
    assert (bounds(operator), bounds(operator, "-queue")) == (None, None)


# --- from the control plane


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


def test_a_deployment_that_may_grow_is_autoscaled(
    plane: ControlPlane, own_api_server: ApiServer, namespace: str
) -> None:
    """The control plane's `min_scale` and `max_scale` reach the HorizontalPodAutoscaler."""
    spec = {"cpu": 0.5, "memory_mb": 512, "min_scale": 2, "max_scale": 5, "queue_max_scale": 7}
    with (
        listener_at_work(plane, own_api_server, namespace, operator_enabled=True) as both,
        Kubelet(own_api_server, namespace),
    ):
        cluster = both.engine.ports.cluster
        cluster.create(shared_ingress(namespace))
        source = {
            "listener_id": both.engine.settings.stream_name,
            "listener_config": {"k8s_namespace": namespace},
            "resource_spec": spec,
        }
        deployment_id = both.deploy(source_config=source)
        eventually(lambda: both.phase(deployment_id) is Phase.DEPLOYED, "the deployment is deployed")

        name = both.key(deployment_id).name
        rejected_events = [r for r in both.events.read(lgp_stream(namespace, name)) if r.type == "ObjectRejected"]
        condition = next(c for c in both.lgp(deployment_id)["status"]["conditions"] if c["type"] == "Autoscaling")
        deployments = {d["metadata"]["name"]: d["spec"] for d in cluster.list("apps/v1", "Deployment", namespace)}
        assert (deployments[name]["replicas"], deployments[f"{name}-queue"]["replicas"]) == (2, 2)
        scalers = {a["metadata"]["name"]: a["spec"] for a in cluster.list(HPA[1], HPA[0], namespace)}
        assert {key: (a["minReplicas"], a["maxReplicas"]) for key, a in scalers.items()} == {
            name: (2, 5),
            f"{name}-queue": (2, 7),
        }
        assert condition["status"] in MADE
        assert rejected_events == []
