"""The cluster as its administrator uses it: kubectl, reads of the API, requests to Agent Servers, and timeouts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest

from engine.names import LGP_LABEL
from sandbox.stack import kubernetes_client
from tests.cluster import place
from tests.support.eventually import eventually

Manifest = dict[str, Any]
T = TypeVar("T")

PATIENCE = 90.0
"""Seconds that a test waits for a result; a small node is slow."""

CORE, APPS = "/api/v1", "/apis/apps/v1"
LGPS = "/apis/apps.langchain.ai/v1alpha1/namespaces/{ns}/lgps"
PODS = CORE + "/namespaces/{ns}/pods"
DEPLOYMENTS = APPS + "/namespaces/{ns}/deployments"
CLAIMS = CORE + "/namespaces/{ns}/persistentvolumeclaims"
OWNED = (
    LGPS,
    DEPLOYMENTS,
    APPS + "/namespaces/{ns}/replicasets",
    APPS + "/namespaces/{ns}/statefulsets",
    PODS,
    CORE + "/namespaces/{ns}/services",
    CORE + "/namespaces/{ns}/secrets",
    CLAIMS,
)
"""Collections of all kinds that a deployment may have, except routes and autoscalers."""


@dataclass
class Cluster:
    """A cluster with nodes, and an administrator's client."""

    kubeconfig: Path
    http: httpx.Client = field(repr=False)

    @classmethod
    @contextmanager
    def current(cls) -> Iterator[Cluster]:
        """Connect to the cluster of KUBECONFIG."""
        with kubernetes_client(path := place.kubeconfig()) as http:
            yield cls(path, http)

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, seconds: float = PATIENCE) -> str:
        """Run kubectl; return its output. Raises AssertionError if kubectl fails, unless `check` is false."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def serves(self, group: str) -> bool:
        """Whether the API server serves a group and version."""
        return self.http.get(f"/apis/{group}").is_success

    def need(self, group: str, what: str) -> None:
        """Skip the test unless the API server serves a group and version."""
        if not self.serves(group):
            pytest.skip(f"{what}: the cluster does not serve {group}")

    def get(self, path: str) -> Manifest | None:
        """Return an object, or None if it does not exist."""
        answer = self.http.get(path)
        if answer.status_code == 404:
            return None
        found: Manifest = answer.raise_for_status().json()
        return found

    def listed(self, path: str, namespace: str, labels: str = "") -> list[Manifest]:
        """Return the objects of a collection; an empty list if the kind is not served."""
        answer = self.http.get(path.format(ns=namespace), params={"labelSelector": labels})
        if answer.status_code == 404:
            return []
        items: list[Manifest] = answer.raise_for_status().json()["items"]
        return items

    def patch(self, path: str, merge: Mapping[str, Any]) -> Manifest:
        """Patch an object as `kubectl patch --type merge` does; return the new object."""
        headers = {"Content-Type": "application/merge-patch+json"}
        found: Manifest = self.http.patch(path, json=merge, headers=headers).raise_for_status().json()
        return found

    def deployment(self, namespace: str, name: str) -> Manifest:
        """Return a Deployment. Raises AssertionError if it does not exist."""
        found = self.get(f"{DEPLOYMENTS.format(ns=namespace)}/{name}")
        assert found is not None, f"Deployment {namespace}/{name} does not exist"
        return found

    def make_namespace(self, name: str, pod_security: str) -> None:
        """Make a namespace that enforces a level of Pod Security."""
        labels = {"pod-security.kubernetes.io/enforce": pod_security, "agentplane.dev/test": "cluster"}
        body = {"metadata": {"name": name, "labels": labels}}
        self.http.post("/api/v1/namespaces", json=body).raise_for_status()

    def has_no(self, path: str) -> bool:
        return self.get(path) is None

    def gone(self, *namespaces: str, seconds: float = PATIENCE) -> float:
        """Delete namespaces and wait until they are gone; return the seconds that the deletion took."""
        started = time.monotonic()
        for namespace in namespaces:
            self.http.delete(f"/api/v1/namespaces/{namespace}")
        for namespace in namespaces:
            path = f"/api/v1/namespaces/{namespace}"
            eventually(partial(self.has_no, path), f"namespace {namespace} is gone", seconds)
        return time.monotonic() - started

    def objects_of(self, namespace: str, lgp: str) -> list[str]:
        """Return kind and name of every object that belongs to an LGP, the LGP included."""
        return [
            f"{path.rpartition('/')[2]} {item['metadata']['name']}"
            for path in OWNED
            for item in self.listed(path, namespace)
            if item["metadata"]["name"].startswith(lgp) or (item["metadata"].get("labels") or {}).get(LGP_LABEL) == lgp
        ]


def ready(pod: Manifest) -> bool:
    """Whether a pod is ready."""
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def outside(url: str, path: str = "") -> tuple[str, dict[str, str]]:
    """Return the address at which a client outside the cluster reaches a URL, and the Host header to send."""
    parts = urlsplit(url)
    return f"http://{place.variable('INGRESS')}{parts.path}{path}", {"Host": parts.netloc}


def fetch(url: str, path: str = "") -> httpx.Response:
    """GET a URL through the ingress controller or the Gateway, as a client outside the cluster does."""
    address, headers = outside(url, path)
    return httpx.get(address, headers=headers, timeout=30)


def silent(url: str) -> bool:
    """Whether no Agent Server answers at a URL. A proxy without any route does not listen at all."""
    try:
        return fetch(url, "/ok").status_code in (404, 503)
    except httpx.ConnectError:
        return True
