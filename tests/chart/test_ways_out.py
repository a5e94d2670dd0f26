"""A proxy and a private certificate authority, as the chart sets them up.

The proxy is used for the control plane, not for the Kubernetes API.
"""

from __future__ import annotations

import http.server
import os
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kubernetes import client

from engine.control_plane.client import HttpControlPlane
from engine.errors import AgentplaneError
from engine.kubernetes.cluster import KubernetesCluster
from engine.ports import ObjectKey
from tests.chart.rendering import NEEDED, Values, environment, own_secrets, pods, rendered
from tests.support.certificates import self_signed


class Recorder(http.server.BaseHTTPRequestHandler):
    """Answers every request with 404 and an empty Status, and records the request."""

    def _answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        body = b'{"kind": "Status", "items": [], "resources": [], "details": {"name": "x"}}'
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_CONNECT = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def recording(address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """Run a server; yields its port and the list of its requests."""
    server = http.server.ThreadingHTTPServer((address, 0), Recorder)
    asked: list[str] = []
    server.asked = asked  # type: ignore[attr-defined]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def enter(monkeypatch: pytest.MonkeyPatch, values: Values, mounts: dict[str, Path], service_host: str) -> None:
    """Set the environment of the listener's container, and expand references as a kubelet does."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", service_host)
    found = rendered(NEEDED, values)
    for name, value in environment(dict(pods(found))["listener"], own_secrets(found.values())).items():
        if not name.startswith("AGENTPLANE_"):
            value = re.sub(r"\$\((\w+)\)", lambda reference: os.environ[reference[1]], value)
            for path, file in mounts.items():
                value = value.replace(path, str(file))
            monkeypatch.setenv(name, value)


def first_page(url: str) -> str:
    """Read the first page of deployments; return its length as text, or the error."""
    control_plane = HttpControlPlane(url, api_key="key", workspace_id="w", connect_seconds=5, read_seconds=5)
    try:
        return f"{len(next(iter(control_plane.deployments()), []))} deployments"
    except AgentplaneError as error:
        return str(error)
    finally:
        control_plane.close()


def test_the_control_plane_is_asked_through_the_proxy_and_kubernetes_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with recording() as (proxy_port, through_proxy), recording("127.0.0.2") as (api_port, direct):
        values: Values = {
            "proxy": {"httpsProxy": f"http://127.0.0.1:{proxy_port}", "httpProxy": f"http://127.0.0.1:{proxy_port}"}
        }
        enter(monkeypatch, values, {}, "127.0.0.2")

        first_page("https://api.host.langchain.com")
        assert through_proxy == ["CONNECT api.host.langchain.com:443"]

        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.2:{api_port}"
        cluster = KubernetesCluster(configuration, connect_seconds=5, read_seconds=5)
        cluster.get(ObjectKey(api_version="v1", kind="Secret", namespace="agents", name="x"))
        cluster.close()
        assert direct == ["GET /api/v1/namespaces/agents/secrets/x"]
        assert len(through_proxy) == 1


def test_a_private_authority_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context, authority = self_signed(tmp_path)
    with recording(tls=context) as (port, asked):
        enter(monkeypatch, {}, {}, "127.0.0.1")
        assert "certificate" in first_page(f"https://127.0.0.1:{port}").lower()
        assert asked == []

        values: Values = {"caBundle": {"configMapName": "authorities"}}
        enter(monkeypatch, values, {"/etc/agentplane/ca/ca.crt": authority}, "127.0.0.1")
        first_page(f"https://127.0.0.1:{port}")
        assert len(asked) >= 1
        assert asked[0].startswith("GET /v2/deployments")
