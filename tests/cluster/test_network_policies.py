"""`networkPolicy.enabled`: the processes reach what they must and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.chart.rendering import RELEASE
from tests.cluster import place
from tests.cluster.cluster import Cluster, eventually, fetch
from tests.cluster.data_plane import DataPlane

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
except OSError as error:
    print("cut off:", type(error).__name__)
else:
    print("connected")
"""


@pytest.fixture(scope="module")
def closed(cluster: Cluster, plane: DataPlane) -> Iterator[DataPlane]:
    """The data plane behind its policies; skipped where nobody enforces policies."""
    plane.upgrade({"networkPolicy": {"enabled": True}})
    with socket.create_server((place.told("ADDRESS"), 0)) as server:
        host, port = server.getsockname()
        enforced = reach(plane, host, str(port)) != "connected"
    if not enforced:
        plane.upgrade({"networkPolicy": {"enabled": False}})
        pytest.skip("nobody enforces NetworkPolicies in this cluster")
    yield plane
    plane.upgrade({"networkPolicy": {"enabled": False}})


def reach(plane: DataPlane, host: str, port: str) -> str:
    """Try to connect from the listener's pod."""
    pod = f"deploy/{RELEASE}-listener"
    command = ["python", "-c", CONNECT, host, port]
    return plane.cluster.kubectl("-n", plane.namespace, "exec", pod, "--", *command).strip()


def test_the_processes_reach_a_control_plane_at_any_port(closed: DataPlane) -> None:
    host, _, port = closed.workspace.url.rpartition("/")[2].partition(":")
    assert port != "443"

    assert reach(closed, host, port) == "connected"
    problems = [finding for finding in closed.findings("listener") if finding["level"] == "fail"]
    assert problems == []


def test_a_deployment_is_deployed_behind_the_policies(closed: DataPlane) -> None:
    """The health check goes through the hostname, which is answered at another port than the one asked for."""
    closed.workspace.create("enclosed", place.images("STUB")[0])

    eventually("it is deployed", lambda: closed.workspace.revision("enclosed") == "DEPLOYED")

    assert fetch(closed.workspace.url_of("enclosed"), "/ok").is_success
    closed.workspace.delete(closed.workspace.deployment("enclosed")["id"])
    eventually("it is gone", lambda: not closed.workspace.deployments())
