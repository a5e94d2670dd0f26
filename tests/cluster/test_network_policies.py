"""`networkPolicy.enabled`: the processes reach the peers that they need and nothing else."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.chart.rendering import RELEASE
from tests.cluster import place
from tests.cluster.cluster import Cluster, fetch
from tests.cluster.data_plane import DataPlane
from tests.support.eventually import eventually

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
except OSError as error:
    print("cut off:", type(error).__name__)
else:
    print("connected")
"""


POLICIES = "/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"


@pytest.fixture(scope="module")
def closed(cluster: Cluster, plane: DataPlane) -> Iterator[DataPlane]:
    """The data plane behind its policies; skips if the cluster does not enforce NetworkPolicies."""
    if not enforced(cluster, plane):
        pytest.skip("this cluster does not enforce NetworkPolicies")
    plane.upgrade({"networkPolicy": {"enabled": True}})
    yield plane
    plane.upgrade({"networkPolicy": {"enabled": False}})


def enforced(cluster: Cluster, plane: DataPlane) -> bool:
    """Whether a policy that denies all egress keeps the processes from an open port."""
    path = POLICIES.format(ns=plane.namespace)
    nothing = {"metadata": {"name": "nothing-out"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"]}}
    cluster.http.post(path, json=nothing).raise_for_status()
    try:
        with listening() as (host, port):
            return holds_soon(lambda: reach(plane, host, port) != "connected")
    finally:
        cluster.http.delete(f"{path}/nothing-out").raise_for_status()


def holds_soon(check: Callable[[], bool], seconds: float = 15) -> bool:
    """Return whether `check` becomes true within `seconds`; enforcement of a policy takes a moment."""
    deadline = time.monotonic() + seconds
    while not (held := check()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return held


@contextmanager
def listening() -> Iterator[tuple[str, str]]:
    """Open a port of this machine that no value of the chart names; yields its host and number."""
    with socket.create_server((place.address(), 0)) as server:
        host, port = server.getsockname()
        yield host, str(port)


def reach(plane: DataPlane, host: str, port: str) -> str:
    """Try to connect from the listener's pod; return `connected`, or `cut off:` and the error."""
    pod = f"deploy/{RELEASE}-listener"
    command = ["python", "-c", CONNECT, host, port]
    return plane.cluster.kubectl("-n", plane.namespace, "exec", pod, "--", *command).strip()


def test_the_processes_reach_a_control_plane_at_any_port(closed: DataPlane) -> None:
    host, _, port = closed.workspace.url.rpartition("/")[2].partition(":")
    assert port != "443"

    assert reach(closed, host, port) == "connected"
    problems = [finding for finding in closed.findings("listener") if finding["level"] == "fail"]
    assert problems == []


def test_the_processes_reach_nothing_else(closed: DataPlane) -> None:
    with listening() as (host, port):
        assert holds_soon(lambda: reach(closed, host, port) != "connected")


def test_a_deployment_is_deployed_behind_the_policies(closed: DataPlane) -> None:
    """The health check uses the hostname; the pods behind the hostname listen on another port than the URL says."""
    closed.workspace.create("enclosed", place.images("STUB")[0])

    eventually(lambda: closed.workspace.revision("enclosed") == "DEPLOYED", "the revision is deployed")

    assert fetch(closed.workspace.url_of("enclosed"), "/ok").is_success
    closed.workspace.delete(closed.workspace.deployment("enclosed")["id"])
    eventually(lambda: not closed.workspace.deployments(), "the deployment is gone")
