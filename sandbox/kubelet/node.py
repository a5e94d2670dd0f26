"""The one node of the sandbox: what all its Pods use, and its Node object in the API."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from sandbox.kubelet.api import CORE, Api, ApiError
from sandbox.kubelet.environment import Kind
from sandbox.kubelet.events import EventRecorder
from sandbox.kubelet.runtime import Runtime
from sandbox.kubelet.status import timestamp
from sandbox.ports import LOOPBACK

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 60.0
MAX_PODS = 500


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Durations of this node, in seconds."""

    # First back-off before a crashed container or a missing image is tried again; it doubles, up to 30 times this.
    backoff: float
    # Longest period of a probe before its first success.
    probe_cap: float
    # Between the last new request to a terminating pod and its SIGTERM.
    drain: float


@dataclass(frozen=True, kw_only=True)
class Node:
    """The clients, folders and settings that all Pods of the node use."""

    name: str
    api: Api
    # Kubeconfig of this node; its Pods use the same cluster.
    kubeconfig: Path
    runtime: Runtime
    events: EventRecorder
    # Client for probes: it follows no redirects, uses no proxy and keeps no connection.
    http: httpx.AsyncClient
    # Folder that holds one folder per image.
    images: Path
    timing: Timing
    # Base URL of the log endpoint.
    logs_url: str
    # Number of requests that a pod (given by uid) is answering now.
    in_flight: Callable[[str], int]

    async def lookup(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a Secret or ConfigMap; None when there is none. Raises ApiError, httpx.TransportError."""
        return await self.api.find(f"{CORE}/namespaces/{namespace}/{kind}/{name}")


async def keep_registered(api: Api, name: str, kubelet_port: int) -> None:
    """Create the Node object if it is missing and report it ready every HEARTBEAT_SECONDS, until cancelled."""
    while True:
        try:
            await _register(api, name, kubelet_port)
        except (ApiError, httpx.HTTPError) as error:
            log.warning("node %s is not registered: %s", name, error)
            await asyncio.sleep(1)
            continue
        await asyncio.sleep(HEARTBEAT_SECONDS)


async def _register(api: Api, name: str, kubelet_port: int) -> None:
    path = f"{CORE}/nodes/{name}"
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux" if os.name == "posix" else os.name,
        "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    }
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    if await api.find(path) is None:
        try:
            await api.create(f"{CORE}/nodes", body)
        except ApiError as error:
            if error.code != 409:
                raise
        # The API server taints new nodes as not ready. A controller that does not run here would remove the taint.
        await api.patch(path, {"spec": {"taints": None}})
    await api.patch(f"{path}/status", {"status": _status(name, kubelet_port)})


def _status(name: str, kubelet_port: int) -> dict[str, Any]:
    now = timestamp(datetime.now(UTC))
    resources = {"cpu": str(os.cpu_count() or 1), "memory": _memory(), "pods": str(MAX_PODS)}
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": LOOPBACK},
            {"type": "Hostname", "address": "localhost"},
        ],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "the sandbox runs pods as local processes",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
        "nodeInfo": {
            "architecture": platform.machine(),
            "bootID": "",
            "containerRuntimeVersion": "sandbox://1",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "sandbox",
            "kubeletVersion": "sandbox",
            "machineID": "",
            "operatingSystem": platform.system().lower(),
            "osImage": platform.platform(terse=True),
            "systemUUID": "",
        },
    }


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 1024}Ki"
    except (OSError, ValueError):
        return "4Gi"
