"""One namespace of a real API server, and what an adoption there must not change."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from engine.ports import Manifest
from tests.adoption.objects import Upstream, install, path_of
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What an adoption must not change: uids, pod templates, the password, the paths on the shared Ingress."""

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
        """Change an object by a merge patch, as a person does with kubectl."""
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

    def snapshot(self, upstream: Upstream) -> Snapshot:
        """Return the present state of what an adoption must not change."""
        apps = "/apis/apps/v1"
        workloads = self.items(apps, "deployments") + self.items(apps, "statefulsets")
        (ingress,) = self.items("/apis/networking.k8s.io/v1", "ingresses")
        rules = ingress["spec"]["rules"]
        return Snapshot(
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
        """Return whether every workload runs as many ready pods as its spec asks for."""
        apps = "/apis/apps/v1"
        workloads = self.items(apps, "deployments") + self.items(apps, "statefulsets")
        return all(
            one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"]
            and one["status"].get("readyReplicas", 0) == one["spec"]["replicas"] == one["status"].get("replicas", 0)
            and one["status"].get("updatedReplicas", 0) == one["spec"]["replicas"]
            for one in workloads
        )

    def upstream(self, upstream: Upstream, **options: object) -> Manifest:
        """Create an Agent Server as upstream does, and wait until its pods are ready; return the LGP."""
        lgp = install(self.http, upstream, **options)  # type: ignore[arg-type]
        eventually(self.rolled_out, "upstream's Agent Server runs")
        return lgp
