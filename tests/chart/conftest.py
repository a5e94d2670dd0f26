"""API servers of their own for the tests of the chart, which install and remove definitions that others need."""

from __future__ import annotations

import contextlib
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from sandbox import envtest
from sandbox.kubernetes.server import KubernetesServer
from tests.chart.rendering import RELEASE, helm
from tests.conftest import CLUSTERS, ApiServer


@pytest.fixture(scope="package")
def own_real() -> Iterator[ApiServer]:
    if reason := envtest.available():
        pytest.skip(f"real API server: {reason}")
    with envtest.RealControlPlane() as cluster:
        verify = ssl.create_default_context(cafile=str(cluster.ca))
        server = ApiServer(
            name="real",
            kubeconfig=cluster.kubeconfig,
            url=cluster.url,
            token=cluster.token,
            verify=verify,
            restart=cluster.restart_api_server,
        )
        with jobs_done(server):
            yield server


@pytest.fixture(scope="package")
def own_embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with KubernetesServer(tmp_path_factory.mktemp("kubernetes")) as cluster:
        server = ApiServer(
            name="embedded",
            kubeconfig=cluster.kubeconfig,
            url=cluster.url,
            token=cluster.token,
            verify=cluster.verify(),
            restart=lambda: cluster.restart(kill=True),
        )
        with jobs_done(server):
            yield server


@pytest.fixture(scope="package", params=CLUSTERS)
def server(request: pytest.FixtureRequest) -> ApiServer:
    """The test runs on the embedded API server and on a real one."""
    found: ApiServer = request.getfixturevalue(f"own_{request.param}")
    return found


@contextlib.contextmanager
def jobs_done(server: ApiServer) -> Iterator[None]:
    """Say of every Job that it is done, as long as the block lasts: no kubelet is here to run the hooks of a release.

    tests/installation has one.
    """
    done = threading.Event()
    thread = threading.Thread(target=_finish_jobs, args=(server, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)


def _finish_jobs(server: ApiServer, done: threading.Event) -> None:
    condition = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"status": {"succeeded": 1, "conditions": [condition]}}
    merge = {"Content-Type": "application/merge-patch+json"}
    with server.http() as http:
        while not done.wait(0.2):
            with contextlib.suppress(httpx.HTTPError, KeyError):  # an API server that restarts under it
                for job in http.get("/apis/batch/v1/jobs").json()["items"]:
                    if not job.get("status", {}).get("conditions"):
                        metadata = job["metadata"]
                        path = f"/apis/batch/v1/namespaces/{metadata['namespace']}/jobs/{metadata['name']}/status"
                        http.patch(path, json=status, headers=merge)


@pytest.fixture
def namespaces(server: ApiServer) -> Callable[[], str]:
    """Makes namespaces."""
    return lambda: make_namespace(server)


def make_namespace(server: ApiServer) -> str:
    name = f"test-{secrets.token_hex(4)}"
    with server.http() as http:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        http.post("/api/v1/namespaces", json=body).raise_for_status()
    return name


@pytest.fixture
def releases(server: ApiServer) -> Iterator[Callable[[str], Any]]:
    """Gives Helm for a namespace."""
    opened: list[Any] = []

    def open_(namespace: str) -> Any:
        opened.append(helm.Config(kubeconfig_path=server.kubeconfig, namespace=namespace))
        return opened[-1]

    yield open_
    for config in opened:
        config.uninstall(RELEASE, ignore_not_found=True)
        config.close()
