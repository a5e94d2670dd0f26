"""API servers for tests: how to reach one, and how to start one."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox import envtest
from sandbox.kubernetes.server import KubernetesServer

# TESTS_API_SERVERS=embedded or =real runs the tests of one cluster only.
CLUSTERS = tuple(os.environ.get("TESTS_API_SERVERS", "embedded,real").split(","))


@dataclass(frozen=True, kw_only=True)
class ApiServer:
    """How a test reaches a Kubernetes API server."""

    name: str  # "embedded" or "real"
    kubeconfig: Path
    url: str
    token: str
    verify: ssl.SSLContext | bool  # for httpx
    restart: Callable[[], None] = field(repr=False)  # a crash and a start on the same port with the same data

    def http(self, **settings: object) -> httpx.Client:
        """Return a client with the administrator's token; the caller closes it."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=self.verify,
            timeout=30,
            **settings,  # type: ignore[arg-type]
        )


@contextmanager
def running_real(folder: Path, **options: Any) -> Iterator[ApiServer]:
    """Run etcd, kube-apiserver and kube-controller-manager; skip the test with the reason if they are not installed.

    `options` are passed to `RealControlPlane`.
    """
    if reason := envtest.available():
        pytest.skip(f"real API server: {reason}")
    with envtest.RealControlPlane(folder, **options) as cluster:
        yield ApiServer(
            name="real",
            kubeconfig=cluster.kubeconfig,
            url=cluster.url,
            token=cluster.token,
            verify=ssl.create_default_context(cafile=str(cluster.ca)),
            restart=cluster.restart_api_server,
        )


@contextmanager
def running_embedded(folder: Path) -> Iterator[ApiServer]:
    """Run the sandbox's own API server with its controllers, in a separate process as in the stack."""
    with KubernetesServer(folder) as cluster:
        yield ApiServer(
            name="embedded",
            kubeconfig=cluster.kubeconfig,
            url=cluster.url,
            token=cluster.token,
            verify=cluster.verify(),
            restart=lambda: cluster.restart(kill=True),
        )
