"""A wrong URL of the control plane, from the setting to `agentplane status`: one clear line, and no stack trace."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from engine import bootstrap
from engine.control_plane.client import HttpControlPlane
from engine.kubernetes.cluster import KubernetesCluster
from engine.log.redis import RedisLog
from engine.settings import Settings
from sandbox.control_plane.server import ControlPlane, seed
from sandbox.ports import free_port
from tests.support.command_line import HELLO, Agentplane, lines

KEY = "lsv2_pt_0123456789abcdef_0123456789"
WORKSPACE = "11111111-2222-4333-8444-555555555555"


class WebPage(http.server.BaseHTTPRequestHandler):
    """A web server that is no control plane: it answers every request with an HTML page."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>LangSmith</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def wrong_path() -> Iterator[str]:
    """Yield the right server with a wrong path, like a self-hosted control plane's URL without `/api-host`."""
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield f"{plane.url}/not/api-host"


@contextmanager
def nobody() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def no_such_name() -> Iterator[str]:
    yield "http://control-plane.invalid"


@pytest.fixture
def agentplane(redis_url: str, prefix: str) -> Agentplane:
    return Agentplane(redis_url, prefix)


@contextmanager
def engine_at(url: str, agentplane: Agentplane, listener_id: str) -> Iterator[bootstrap.Engine]:
    """Yield the engine of a listener with that URL; the engine never reaches a cluster."""
    environment = agentplane.environment
    settings = Settings.load(
        langsmith_api_key=KEY,
        workspace_id=WORKSPACE,
        listener_id=listener_id,
        watch_namespaces="agents",
        host_backend_url=url,
        smith_backend_url=url,
        ingress_hostname="agents.example.com",
        redis_url=environment["AGENTPLANE_REDIS_URL"],
        prefix=environment["AGENTPLANE_PREFIX"],
        operator_enabled=False,
    )
    nowhere = KubernetesCluster.__new__(KubernetesCluster)
    with (
        closing(RedisLog.from_url(environment["AGENTPLANE_REDIS_URL"], environment["AGENTPLANE_PREFIX"])) as events,
        closing(HttpControlPlane.from_settings(settings)) as control_plane,
    ):
        yield bootstrap.build(settings, events=events, control_plane=control_plane, cluster=nowhere)


@pytest.mark.parametrize("wrong", [nobody, no_such_name, web_page, wrong_path], ids=lambda wrong: wrong.__name__)
def test_a_wrong_url_is_told_in_one_line_and_deployments_are_left_as_they_are(
    agentplane: Agentplane, wrong: object, capfd: pytest.CaptureFixture[str]
) -> None:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        listener_id = seed(plane.store, WORKSPACE, "clusters", ["agents"])["id"]
    agentplane.deployment(HELLO)
    with wrong() as url, engine_at(url, agentplane, listener_id) as engine:  # type: ignore[operator]
        for _ in range(3):
            engine.poller.memory.failures = 0  # as if the time between two polls had passed
            engine.poll()

    written = "".join(capfd.readouterr())
    assert "Traceback" not in written
    summary = agentplane.run("status", code=1).stdout
    (line,) = [line for line in summary.splitlines() if "polling fails" in line]
    assert url in line
    assert "AGENTPLANE_HOST_BACKEND_URL" in line
    assert "hello" in summary, "the deployment is still shown"
    happened = lines(agentplane.run("events", "--json"))
    assert [event["type"] for event in happened].count("PollFailed") == 1, (
        "the log must hold one failure, not one for each poll"
    )
    assert not any(event["type"] in ("DeletionRequested", "RevisionFailed") for event in happened)
    assert KEY not in summary + written + json.dumps(happened)


def test_the_right_url_makes_it_good(agentplane: Agentplane) -> None:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        listener_id = seed(plane.store, WORKSPACE, "clusters", ["agents"])["id"]
        with nobody() as url, engine_at(url, agentplane, listener_id) as engine:
            engine.poll()
        agentplane.run("status", code=1)

        with engine_at(plane.url, agentplane, listener_id) as engine:
            engine.poll()

    assert "polling fails" not in agentplane.run("status").stdout
