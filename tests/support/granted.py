"""The components under the permissions that the chart grants."""

from __future__ import annotations

import contextlib
import copy
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from engine import bootstrap
from engine.clock import SystemClock
from engine.errors import ControlPlaneNotFound
from engine.kubernetes.cluster import KubernetesCluster
from engine.kubernetes.http import load_configuration
from engine.log.memory import MemoryLog
from engine.ports import Health, Manifest
from tests.chart.rendering import (
    LISTENER,
    RELEASE,
    WORKSPACE,
    settings_of,
)
from tests.support.api_servers import ApiServer
from workers.watcher import watch

DEPLOYMENT = "44444444-4444-4444-8444-444444444444"

HTTP_ROUTES = "httproutes.gateway.networking.k8s.io"

COMPONENTS = ("listener", "operator", "watcher")

Right = tuple[str, str, str]
"""Verb, API group, resource with its subresource."""


class Account(KubernetesCluster):
    """A cluster client with the token of one ServiceAccount; records the rights it used and the refusals."""

    def __init__(self, server: ApiServer, namespace: str, name: str) -> None:
        configuration = load_configuration(server.kubeconfig)
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        with server.http() as http:
            answer = http.post(
                path, json={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            )
        answer.raise_for_status()
        configuration.api_key = {"authorization": f"Bearer {answer.json()['status']['token']}"}
        configuration.refresh_api_key_hook = None
        super().__init__(configuration, watch_seconds=5)
        self.used: set[Right] = set()
        self.refused: list[str] = []
        call, stream = self._http.call, self._http.stream

        def noted(method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            answer = call(method, path, *args, **kwargs)
            self._note(method, path, created=answer.status == 201)
            if answer.status == 403:
                self.refused.append(f"{method} {path}: {answer.message}")
            return answer

        def watched(path: str, *args: Any, **kwargs: Any) -> Any:
            self._note("WATCH", path)
            return self._recording_refusals(stream(path, *args, **kwargs))

        self._http.call, self._http.stream = noted, watched  # type: ignore[method-assign]

    @contextlib.contextmanager
    def _recording_refusals(self, stream: Any) -> Iterator[Any]:
        try:
            with stream as lines:
                yield lines
        except Exception as error:
            if getattr(error, "status", None) == 403:
                self.refused.append(str(error))
            raise

    def _note(self, method: str, path: str, *, created: bool = False) -> None:
        right = re.fullmatch(r"/apis?(?:/([^/]+))?/[^/]+/namespaces/[^/]+/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", path)
        if right is None:
            return  # discovery, which every account may read
        group, resource, name, subresource = right.groups()
        verb = {"GET": "get" if name else "list", "POST": "create"}.get(method, method.lower())
        whole = f"{resource}/{subresource}" if subresource else resource
        self.used.add((verb, group or "", whole))
        if created and method == "PATCH":
            self.used.add(("create", group or "", whole))


class ControlPlane:
    """A control plane with one deployment; records the reports of the data plane."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.resource_spec: dict[str, Any] = {}
        self.reports: list[tuple[str, str]] = []
        self.resource: dict[str, Any] | None = None

    def ask(self, revision: str, image: str, secret: str) -> None:
        self.resource = {
            "id": DEPLOYMENT,
            "name": "hello",
            "tenant_id": WORKSPACE,
            "source": "external_docker",
            "status": "AWAITING_DATABASE",
            "latest_revision_id": revision,
            "active_revision_id": None,
            "updated_at": f"2026-01-01T00:00:0{revision[0]}Z",
            "source_config": {
                "listener_id": LISTENER,
                "listener_config": {"k8s_namespace": self.namespace},
                "resource_spec": self.resource_spec,
            },
            "source_revision_config": {"image_uri": f"registry.example/hello:{image}"},
            "secrets": [{"name": "OPENAI_API_KEY", "value": secret}],
            "secret_references": None,
        }

    def deployments(self) -> Iterator[Sequence[dict[str, Any]]]:
        yield [copy.deepcopy(self.resource)] if self.resource else []

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        if self.resource is None:
            raise ControlPlaneNotFound(deployment_id)
        return copy.deepcopy(self.resource)

    def listener(self, listener_id: str) -> dict[str, Any]:
        return {"id": listener_id, "compute_config": {"k8s_namespaces": list(self.watched)}}

    watched: Sequence[str] = ()

    def publish_version(self, listener_id: str, version: str) -> None:
        pass

    def publish_endpoint(self, deployment_id: str, url: str) -> None:
        pass

    def report_revision(self, deployment_id: str, revision_id: str, status: str, **_: Any) -> None:
        self.reports.append((revision_id, status))

    def report_deployment(self, deployment_id: str, status: str, **_: Any) -> None:
        self.reports.append((deployment_id, status))


class Healthy:
    def check(self, url: str) -> Health:
        return Health(ok=True, detail="200")


class DataPlane:
    """Listener, operator and watcher of one release, each with its own account, over a log in memory."""

    def __init__(self, server: ApiServer, release: dict[str, Any], home: str, control_plane: ControlPlane) -> None:
        self.manifests = [manifest for manifest in yaml.safe_load_all(release["manifest"]) if manifest]
        self.settings = settings_of(self.manifests)
        control_plane.watched = self.settings.watch_namespaces
        self.accounts = {name: Account(server, home, f"{RELEASE}-{name}") for name in COMPONENTS}
        self.events = MemoryLog()
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._done = threading.Event()
        self.engines = {
            name: bootstrap.build(
                self.settings,
                self,
                events=self.events,
                control_plane=control_plane,
                cluster=self.accounts[name],
                health=Healthy(),
            )
            for name in COMPONENTS
        }
        self._watcher = watch(self.engines["watcher"])
        self._threads = [
            threading.Thread(target=run, daemon=True)
            for run in (self._watcher.run, self._work, self._work, self._sweep)
        ]

    def dispatch(self, stream: str) -> None:
        self._queue.put(stream)

    def _work(self) -> None:
        while (stream := self._queue.get()) is not None:
            name = "operator" if stream.startswith("lgp/") else "listener"
            self.engines[name].advance(stream)

    def _sweep(self) -> None:
        while not self._done.wait(0.2):
            self.engines["listener"].renew_leases()
            for stream in {*self.events.take_due(SystemClock().now()), *self.events.take_dirty(older_than=0.5)}:
                self.dispatch(stream)

    def __enter__(self) -> DataPlane:
        for name in COMPONENTS:
            self.engines[name].configurations.record()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.stop()
        for _worker in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(10)
        for account in self.accounts.values():
            account.close()

    def used(self) -> set[Right]:
        return set().union(*(account.used for account in self.accounts.values()))

    def poll(self) -> None:
        result = self.engines["listener"].poll()
        assert result.outcome == "polled", result


def granted(manifests: Sequence[Manifest], component: str) -> set[Right]:
    """Return the rights in the Roles of a component."""
    return {
        (verb, group, resource)
        for m in manifests
        if m["kind"] == "Role" and m["metadata"]["name"] == f"{RELEASE}-{component}"
        for rule in m["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def gateway_definition() -> Manifest:
    """Return a CustomResourceDefinition of HTTPRoutes that accepts any fields."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": HTTP_ROUTES,
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2466"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io",
            "scope": "Namespaced",
            "names": {
                "kind": "HTTPRoute",
                "plural": "httproutes",
                "singular": "httproute",
                "listKind": "HTTPRouteList",
            },
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
