"""A failing revision, with both components running: only the objects of the previous revision stay in the cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.listener.state import Phase
from engine.names import LGP_LABEL
from engine.ports import Manifest, ObjectKey
from engine.queries import find
from engine.replay import replay
from sandbox.control_plane.server import ControlPlane
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.listener_stack import IMAGE, KEY, WORKSPACE, Listener, at_work
from tests.support.operator_stack import Kubelet, shared_ingress

FAILING = "missing"
"""A version of the image that no kubelet of these tests can pull."""


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


@pytest.fixture
def both(plane: ControlPlane, api_server: ApiServer, namespace: str) -> Iterator[Listener]:
    """Return a listener and an operator whose deadline for failing pods is half a second."""
    with (
        at_work(plane, api_server, namespace, operator_enabled=True, failure_grace_seconds=0.5) as both,
        Kubelet(api_server, namespace),
    ):
        both.engine.ports.cluster.create(shared_ingress(namespace))
        yield both


def pods(both: Listener, name: str, lgp: str = "") -> dict[str, str]:
    """Return uid and image of a Deployment's pods, except pods that are being deleted."""
    found = both.engine.ports.cluster.list("v1", "Pod", both.namespace, labels=f"{LGP_LABEL}={lgp or name}")
    return {
        pod["metadata"]["uid"]: image_of(pod["spec"])
        for pod in found
        if pod["metadata"]["labels"].get("app") == name and "deletionTimestamp" not in pod["metadata"]
    }


def image_of(spec: Manifest) -> str:
    return str(spec["containers"][0]["image"])


def test_a_failed_revision_is_stopped_and_the_previous_one_serves_on(both: Listener) -> None:
    deployment_id = both.deploy()
    eventually(lambda: both.phase(deployment_id) is Phase.DEPLOYED, "v1 is deployed")
    name, cluster = both.key(deployment_id).name, both.engine.ports.cluster
    server = ObjectKey(api_version="apps/v1", kind="Deployment", namespace=both.namespace, name=name)
    serving = pods(both, name)
    assert list(serving.values()) == [f"{IMAGE}:v1"]

    failed = both.update(deployment_id, FAILING)
    eventually(lambda: f"{IMAGE}:{FAILING}" in pods(both, name).values(), "a pod of the new image is tried")
    assert serving.items() <= pods(both, name).items()
    eventually(lambda: both.revision_status(deployment_id, failed) == "DEPLOY_FAILED", "the revision has failed")

    eventually(lambda: both.image(deployment_id) == f"{IMAGE}:v1", "the LGP is put back")
    eventually(lambda: pods(both, name) == serving, "of the pods, the very one that served is left")
    shown = both.shown(deployment_id)
    assert shown["active_revision_id"] != failed
    assert both.revision_status(deployment_id, failed) == "DEPLOY_FAILED"
    eventually(lambda: available(both.lgp(deployment_id)), "the LGP says that it is available")
    view = find(both.events, deployment_id)
    assert (view.phase, view.failed, view.serving) == ("DEPLOY_FAILED", True, shown["active_revision_id"])
    assert view.reason.startswith("ImagePullBackOff")

    cluster.delete(server)
    eventually(
        lambda: pods(both, name).keys().isdisjoint(serving) and pods(both, name),
        "the pods are replaced after a user deletes the Deployment",
    )
    assert list(pods(both, name).values()) == [f"{IMAGE}:v1"]

    second = both.update(deployment_id, "v2")
    eventually(lambda: both.revision_status(deployment_id, second) == "DEPLOYED", "the next revision is deployed")
    eventually(lambda: list(pods(both, name).values()) == [f"{IMAGE}:v2"], "and alone")
    assert replay(both.events.read_all(limit=10_000)).divergences == []


def test_a_first_revision_that_fails_is_scaled_to_nothing_until_the_next(both: Listener) -> None:
    source = {
        "listener_id": both.engine.settings.stream_name,
        "listener_config": {"k8s_namespace": both.namespace},
        "resource_spec": {"cpu": 0.5, "memory_mb": 512, "min_scale": 2, "max_scale": 4},
    }
    deployment_id = both.deploy(version=FAILING, source_config=source)
    eventually(lambda: both.phase(deployment_id) is Phase.DEPLOY_FAILED, "the revision has failed")
    name, cluster = both.key(deployment_id).name, both.engine.ports.cluster

    eventually(lambda: not servers(both, name), "no pod of the agent is left")
    eventually(
        lambda: replicas(both, name) == {"": 0, "-queue": 0, "-redis": 1, "-db": 1}, "the database and Redis stay"
    )
    eventually(
        lambda: not cluster.list("autoscaling/v2", "HorizontalPodAutoscaler", both.namespace),
        "no autoscaler is left that could scale the Deployment up",
    )
    eventually(lambda: condition(both, deployment_id, "Progressing") == ("False", "Stopped"), "the LGP says so")
    assert condition(both, deployment_id, "Degraded") == ("True", "ImagePullBackOff")
    assert condition(both, deployment_id, "Available") == ("False", "ImagePullBackOff")
    view = find(both.events, deployment_id)
    assert (view.phase, view.stopped) == ("DEPLOY_FAILED", True)
    assert view.reason.startswith("ImagePullBackOff: ")
    assert "image not found" in view.reason

    second = both.update(deployment_id, "v2")
    eventually(lambda: both.revision_status(deployment_id, second) == "DEPLOYED", "the next revision is deployed")
    eventually(lambda: set(servers(both, name).values()) == {f"{IMAGE}:v2"}, "with pods of its own")
    assert "annotations" not in both.lgp(deployment_id)["metadata"]
    assert len(cluster.list("autoscaling/v2", "HorizontalPodAutoscaler", both.namespace)) == 2
    assert replay(both.events.read_all(limit=10_000)).divergences == []


def servers(both: Listener, name: str) -> dict[str, str]:
    """Return uid and image of the pods of API servers and queue workers."""
    return pods(both, name) | pods(both, f"{name}-queue", lgp=name)


def replicas(both: Listener, name: str) -> dict[str, int]:
    """Return `spec.replicas` of each workload; keys are the suffixes that workloads add to the LGP's name."""
    return {
        workload["metadata"]["name"].removeprefix(name): workload["spec"]["replicas"]
        for kind in ("Deployment", "StatefulSet")
        for workload in both.engine.ports.cluster.list("apps/v1", kind, both.namespace)
    }


def condition(both: Listener, deployment_id: str, kind: str) -> tuple[str, str]:
    found = next(c for c in both.lgp(deployment_id)["status"]["conditions"] if c["type"] == kind)
    return found["status"], found["reason"]


def available(lgp: Manifest) -> bool:
    status = lgp.get("status", {})
    current = status.get("observedGeneration") == lgp["metadata"]["generation"]
    return current and any(c["type"] == "Available" and c["status"] == "True" for c in status["conditions"])
