"""A namespace in which upstream made an Agent Server, and what must stay as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from engine.operator.events import Adopted
from engine.ports import Manifest
from tests.adoption.objects import (
    Upstream,
    install,
    path_of,
)
from tests.support.api_servers import ApiServer
from tests.support.operator_stack import Operator, until


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What must not change when somebody else takes over: uids, and what pods are made from."""

    uids: dict[str, str]
    replica_sets: frozenset[str]
    pods: frozenset[str]
    templates: dict[str, Manifest]
    password: dict[str, str]
    claims: dict[str, str]
    paths: tuple[str, ...]


@dataclass
class Cluster:
    """One namespace of a real API server."""

    api: ApiServer
    http: httpx.Client
    namespace: str

    def items(self, group: str, plural: str) -> list[Manifest]:
        found: list[Manifest] = self.http.get(f"{group}/namespaces/{self.namespace}/{plural}").json()["items"]
        return found

    def get(self, manifest: Manifest) -> Manifest:
        answer = self.http.get(f"{path_of(manifest)}/{manifest['metadata']['name']}")
        assert answer.status_code == 200, answer.text
        found: Manifest = answer.json()
        return found

    def merge(self, manifest: Manifest, patch: Manifest, manager: str = "kubectl-edit") -> Manifest:
        """Change an object as a person does."""
        path = f"{path_of(manifest)}/{manifest['metadata']['name']}"
        headers = {"Content-Type": "application/merge-patch+json"}
        answer = self.http.patch(path, params={"fieldManager": manager}, json=patch, headers=headers)
        assert answer.status_code == 200, answer.text
        changed: Manifest = answer.json()
        return changed

    def pods(self) -> list[Manifest]:
        return self.items("/api/v1", "pods")

    def claims(self) -> list[Manifest]:
        return self.items("/api/v1", "persistentvolumeclaims")

    def taken(self, upstream: Upstream) -> Taken:
        """Return what is there now."""
        apps = "/apis/apps/v1"
        workloads = self.items(apps, "deployments") + self.items(apps, "statefulsets")
        (ingress,) = self.items("/apis/networking.k8s.io/v1", "ingresses")
        rules = ingress["spec"]["rules"]
        return Taken(
            uids={one["metadata"]["name"]: one["metadata"]["uid"] for one in workloads},
            replica_sets=frozenset(one["metadata"]["uid"] for one in self.items(apps, "replicasets")),
            pods=frozenset(one["metadata"]["uid"] for one in self.pods()),
            templates={one["metadata"]["name"]: one["spec"]["template"] for one in workloads},
            password=self.get(upstream.password())["data"],
            claims={
                one["metadata"]["name"]: one["metadata"]["uid"]
                for one in self.items("/api/v1", "persistentvolumeclaims")
            },
            paths=tuple(path["path"] for rule in rules for path in rule.get("http", {}).get("paths", [])),
        )

    def rolled_out(self) -> bool:
        """Whether every workload runs as many ready pods as it asks for."""
        apps = "/apis/apps/v1"
        workloads = self.items(apps, "deployments") + self.items(apps, "statefulsets")
        return all(
            one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"]
            and one["status"].get("readyReplicas", 0) == one["spec"]["replicas"] == one["status"].get("replicas", 0)
            and one["status"].get("updatedReplicas", 0) == one["spec"]["replicas"]
            for one in workloads
        )

    def upstream(self, upstream: Upstream, **options: object) -> Manifest:
        """Let upstream make an Agent Server, and wait until it runs; return the LGP."""
        lgp = install(self.http, upstream, **options)  # type: ignore[arg-type]
        until(self.rolled_out, "upstream's Agent Server runs")
        return lgp


@contextlib.contextmanager
def ours(cluster: Cluster, kubeconfig: Path | None = None, **options: Any) -> Iterator[Operator]:
    """Our operator at work in the namespace, as the administrator unless told otherwise."""
    with Operator(kubeconfig or cluster.api.kubeconfig, cluster.namespace, **options) as operator:
        yield operator


def taken_over(operator: Operator, name: str) -> Adopted:
    """Wait until our operator is done with an LGP; return what it kept."""
    until(lambda: operator.available(name, operator.lgp(name)["metadata"]["generation"]), f"{name} is available")
    operator.quiet(name, seconds=1.5)  # longer than a suspicion of drift is held
    found = operator.state(name).adopted
    assert found is not None, operator.types(name)
    return found


def environment(workload: Manifest) -> dict[str, Any]:
    env = workload["spec"]["template"]["spec"]["containers"][0]["env"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in env}
