"""A stand-in for kubelets: tests set Pods to Running and Ready through the API."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from tests.conformance.client import Api
from tests.conformance.objects import Object
from tests.support.eventually import eventually


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def live_pods(api: Api, selector: str = "") -> list[Object]:
    """Return the Pods that are not terminating, ordered by name."""
    pods = api.list("pods", labelSelector=selector)["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def make_ready(api: Api, pod: Object) -> None:
    """Write the status that a kubelet reports when the containers run; do nothing if the Pod is deleted."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = [
        {"type": kind, "status": "True", "lastTransitionTime": moment}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    body = {"status": {"phase": "Running", "conditions": ready}}
    response = api.send(
        "PATCH", "pods", pod["metadata"]["name"], body, sub="status", type="application/merge-patch+json"
    )
    assert response.is_success or response.status_code == 404, response.text


def settle(
    api: Api,
    done: Callable[[], object],
    what: str,
    *,
    only: Callable[[Object], bool] = lambda pod: True,
    watch: Callable[[list[Object]], None] = lambda pods: None,
) -> None:
    """Make every Pod ready that `only` accepts, until `done`; call `watch` with the Pods in each round."""

    def step() -> bool:
        pods = live_pods(api)
        watch(pods)
        for pod in pods:
            if not is_ready(pod) and only(pod):
                make_ready(api, pod)
        return bool(done())

    eventually(step, what, seconds=60)


def condition(obj: Object, kind: str) -> Object:
    """Return a condition of the status; {} when there is none."""
    conditions = obj.get("status", {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})


def rolled_out(api: Api, name: str) -> bool:
    """Whether a Deployment is complete as `kubectl rollout status` defines it."""
    deployment = api.get("deployments", name)
    status, replicas = deployment.get("status", {}), deployment["spec"]["replicas"]
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == replicas
        and status.get("replicas", 0) == replicas
        and status.get("availableReplicas", 0) == replicas
    )


def set_rolled_out(api: Api, name: str) -> bool:
    stateful_set = api.get("statefulsets", name)
    status, replicas = stateful_set.get("status", {}), stateful_set["spec"]["replicas"]
    return bool(
        status.get("observedGeneration", 0) >= stateful_set["metadata"]["generation"]
        and status.get("readyReplicas", 0) == replicas
        and status.get("replicas", 0) == replicas
        and status.get("currentRevision") == status.get("updateRevision")
    )


@contextlib.contextmanager
def pods_become_ready(api: Api, only: Callable[[Object], bool] = lambda pod: True) -> Iterator[None]:
    """While the block runs, every Pod in the namespace that `only` accepts becomes ready."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.wait(0.05):
            for pod in live_pods(api):
                if not is_ready(pod) and only(pod):
                    make_ready(api, pod)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
