"""Fixtures: a namespace of a real API server with its controllers, and our listener beside a control plane."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import httpx
import pytest

from sandbox.control_plane.server import ControlPlane, seed
from tests.adoption.cluster import Cluster
from tests.support.api_servers import ApiServer
from tests.support.listener_stack import KEY, WORKSPACE, Listener
from tests.support.operator_stack import Kubelet, install_crd


@pytest.fixture(scope="module")
def admin(real_api_server: ApiServer) -> Iterator[httpx.Client]:
    install_crd(real_api_server)
    with real_api_server.http() as http:
        yield http


@pytest.fixture
def cluster(real_api_server: ApiServer, admin: httpx.Client) -> Iterator[Cluster]:
    """A fresh namespace in which a kubelet runs every pod."""
    namespace = f"adoption-{secrets.token_hex(4)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    admin.post("/api/v1/namespaces", json=body).raise_for_status()
    with Kubelet(real_api_server, namespace):
        yield Cluster(real_api_server, admin, namespace)


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


@pytest.fixture
def listener(plane: ControlPlane, cluster: Cluster) -> Listener:
    """Our listener, not started yet."""
    listener_id = seed(plane.store, WORKSPACE, cluster.namespace, [cluster.namespace])["id"]
    return Listener(plane, listener_id, cluster.api, cluster.namespace)
