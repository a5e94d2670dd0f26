"""An error of a failed connection names our NetworkPolicy if the policy may be the cause, and only then."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
import redis
import urllib3

from engine.control_plane.client import HttpControlPlane
from engine.control_plane.health import LONGEST_DETAIL, HttpHealth
from engine.control_plane.network_policy import may_forbid
from engine.errors import ControlPlaneUnavailable
from engine.log.redis import connect

POLICY = "langgraph-dataplane-processes"
NAMED = f"; the NetworkPolicy {POLICY} may forbid it: networkPolicy.extraPorts in the chart's values"


@contextmanager
def refusing() -> Iterator[int]:
    """A port of this machine without a listening process, as with a policy that rejects."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def dropping() -> Iterator[int]:
    """A port that answers no connection, as with a policy that drops: its queue of new ones is full."""
    with closing(socket.socket()) as server, closing(socket.socket()) as first, closing(socket.socket()) as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """A server that takes a connection and never answers: no policy does that."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(server.accept()[0]), daemon=True).start()
        yield server.getsockname()[1]
        for connection in held:
            connection.close()


@pytest.mark.parametrize("port", [refusing, dropping])
def test_a_health_check_that_cannot_connect_names_the_policy(port: object) -> None:
    with port() as number:  # type: ignore[operator]
        health = HttpHealth(timeout_seconds=1.0, network_policy=POLICY).check(f"http://127.0.0.1:{number}/ok")
        without = HttpHealth(timeout_seconds=1.0).check(f"http://127.0.0.1:{number}/ok")

    assert health.detail.endswith(
        f"the NetworkPolicy {POLICY} may forbid it: networkPolicy.gatewayTo and gatewayPorts in the chart's values"
    )
    assert "NetworkPolicy" not in without.detail


def test_the_policy_s_name_survives_a_long_answer() -> None:
    with refusing() as port:
        url = f"http://127.0.0.1:{port}/{'x' * 2 * LONGEST_DETAIL}"
        detail = HttpHealth(network_policy=POLICY).check(url).detail

    assert POLICY in detail


@pytest.mark.parametrize(("scheme", "error"), [("http", "ReadTimeout"), ("https", "ConnectTimeout")])
def test_an_answer_that_does_not_come_has_another_cause(scheme: str, error: str) -> None:
    with silent() as port:
        health = HttpHealth(timeout_seconds=1.0, network_policy=POLICY).check(f"{scheme}://127.0.0.1:{port}/ok")

    assert health.detail.startswith(f"no answer: {error}")
    assert "NetworkPolicy" not in health.detail


def test_a_redis_that_takes_a_connection_and_is_silent_has_another_cause() -> None:
    with silent() as port, pytest.raises(redis.TimeoutError) as error:
        connect(f"redis://127.0.0.1:{port}/0", timeout=0.3, attempts=0).ping()

    assert may_forbid(error.value, POLICY, "networkPolicy.extraPorts") == ""


@pytest.mark.parametrize("port", [refusing, dropping])
def test_a_control_plane_that_cannot_be_connected_to_names_the_policy(port: object) -> None:
    with port() as number:  # type: ignore[operator]
        plane = HttpControlPlane(
            f"http://127.0.0.1:{number}",
            api_key="key",
            workspace_id="w",
            connect_seconds=0.3,
            read_seconds=0.3,
            network_policy=POLICY,
        )
        with pytest.raises(ControlPlaneUnavailable) as error, closing(plane):
            next(iter(plane.deployments()))

    assert f"{NAMED}; check AGENTPLANE_HOST_BACKEND_URL" in str(error.value)


@pytest.mark.parametrize("port", [refusing, dropping])
def test_errors_of_redis_and_of_the_kubernetes_client_are_understood(port: object) -> None:
    with port() as number:  # type: ignore[operator]
        client = connect(f"redis://127.0.0.1:{number}/0", timeout=0.3, attempts=0)
        with pytest.raises(redis.RedisError) as of_redis:
            client.ping()
        with pytest.raises(urllib3.exceptions.HTTPError) as of_kubernetes:
            urllib3.PoolManager().request("GET", f"http://127.0.0.1:{number}", timeout=0.3, retries=False)

    assert may_forbid(of_redis.value, POLICY, "networkPolicy.extraPorts") == NAMED
    assert may_forbid(of_kubernetes.value, POLICY, "networkPolicy.extraPorts") == NAMED


def test_a_name_that_does_not_exist_has_another_cause_and_a_name_server_that_is_silent_has_not() -> None:
    unknown, silence = httpx.ConnectError("unknown"), httpx.ConnectError("silence")
    unknown.__cause__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    silence.__cause__ = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    assert may_forbid(unknown, POLICY, "networkPolicy.extraPorts") == ""
    assert may_forbid(silence, POLICY, "networkPolicy.extraPorts") == NAMED
