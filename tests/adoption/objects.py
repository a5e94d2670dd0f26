"""The objects of one Agent Server as upstream's listener and operator create them, written by hand.

Observed (public listings of pods, chart templates, permissions and issues of upstream):

- an LGP is called `<deployment name>-<32 hex of the deployment's id>`, and so is the Agent Server's Deployment; the
  names of queue workers and Redis have the suffixes `-queue` and `-redis`;
- Postgres is a StatefulSet `lg-<32 hex>`: `lg-<32 hex>-0` is its pod;
- base objects come from four templates; by default a workload selects `app: <its name>`, the Agent Server's container
  is `api-server`, the container of Postgres is `postgres` with the claim `postgres-data`, the password of Postgres is
  the key `POSTGRES_PASSWORD` of a Secret, user and database are variables of the template;
- upstream's operator has permissions for Deployments, StatefulSets, Services and Ingresses, not for Secrets, and
  overwrites changes that people make to Deployments; upstream's listener has permissions for LGPs and Secrets;
- the shared Ingress has an annotation, and one path for each LGP.

Assumed, because nothing public shows it:

- names of the Secrets; that the LGP's environment has values (not references) and names the revision; owner references;
  everything that the operator merges into its templates (variables, labels, annotations): so these objects have more
  of it than upstream can have;
- field managers: a program called `manager` (controller-runtime takes the program's name) and the Python client's
  default, both with updates rather than server-side applies.
"""

from __future__ import annotations

import base64
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import httpx

from engine.names import LGP_API_VERSION, LGP_KIND, SHARED_INGRESS_ANNOTATION
from engine.ports import Manifest

OPERATOR_MANAGER = "manager"
LISTENER_MANAGER = "OpenAPI-Generator"
PASSWORD = "pA55-of-the-first-days"
TOKEN = "sk-upstream-literal"
IMAGE = "registry.example/support@sha256:" + "ab" * 32
NEXT = "registry.example/support@sha256:" + "cd" * 32
"""Image of the next revision."""
HOST = "agents.example.com"


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """One Agent Server that upstream made in a namespace."""

    namespace: str
    deployment: str = "support"
    """Name on the control plane."""
    deployment_id: str = "2c4fbdbd-ed08-537d-b9a8-53eb4f63f9e5"
    revision: str = "5f0c1a52-9df4-4a0e-8b1d-3b1c55f2d3aa"
    image: str = IMAGE
    workspace_id: str = "11111111-2222-4333-8444-555555555555"
    extra_labels: tuple[tuple[str, str], ...] = (("lgp.example/managed", "true"),)
    """Labels that upstream's operator merges into its templates."""
    account: str = ""
    """ServiceAccount of all pods; empty for the default of Kubernetes."""

    @property
    def id(self) -> str:
        return self.deployment_id.replace("-", "")

    @property
    def name(self) -> str:
        return f"{self.deployment}-{self.id}"

    @property
    def database(self) -> str:
        return f"lg-{self.id}"

    @property
    def secret(self) -> str:
        return f"{self.database}-credentials"

    def metadata(self, name: str, owner: str = "") -> dict[str, Any]:
        lgp = {"apiVersion": LGP_API_VERSION, "kind": LGP_KIND, "name": self.name, "uid": owner}
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": {"app": name, "team": "support", **dict(self.extra_labels)},
            **({"ownerReferences": [{**lgp, "controller": True}]} if owner else {}),
        }

    # --- the listener's

    def environment(self) -> list[dict[str, Any]]:
        """Return the environment that upstream's listener writes into the LGP, as literal values."""
        return [
            {"name": "LANGSMITH_HOST_PROJECT_ID", "value": self.deployment_id},
            {"name": "LANGSMITH_HOST_REVISION_ID", "value": self.revision},
            {"name": "LANGSMITH_TENANT_ID", "value": self.workspace_id},
            {"name": "OPENAI_API_KEY", "value": TOKEN},
        ]

    def lgp(self, **spec: Any) -> Manifest:
        server = {
            "image": self.image,
            "replicas": 2,
            "env": self.environment(),
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
            "queueEnabled": True,
        }
        return {
            "apiVersion": LGP_API_VERSION,
            "kind": LGP_KIND,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "serverSpec": {**server, **spec.pop("serverSpec", {})},
                "database": {"enabled": True, "legacyName": True, "secretName": self.secret, "storageSizeGi": 5},
                "redis": {"enabled": True},
                "ingress": {"enabled": True},
                "labels": {"team": "support"},
                **spec,
            },
        }

    def password(self) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.secret, "namespace": self.namespace},
            "type": "Opaque",
            "data": {"POSTGRES_PASSWORD": base64.b64encode(PASSWORD.encode()).decode()},
        }

    # --- the operator's

    def server(self, owner: str = "") -> Manifest:
        return self._agent(self.name, owner, jobs="0")

    def queue(self, owner: str = "") -> Manifest:
        manifest = self._agent(f"{self.name}-queue", owner, jobs="10")
        container = manifest["spec"]["template"]["spec"]["containers"][0]
        container["command"] = ["/storage/queue_entrypoint.sh"]
        return manifest

    def _agent(self, name: str, owner: str, jobs: str) -> Manifest:
        uri = f"postgres://langgraph:{PASSWORD}@{self.database}.{self.namespace}.svc.cluster.local:5432/agents"
        more = [
            {"name": "POSTGRES_URI", "value": uri},
            {"name": "REDIS_URI", "value": f"redis://{self.name}-redis:6379"},
            {"name": "N_JOBS_PER_WORKER", "value": jobs},
            {"name": "MOUNT_PREFIX", "value": f"/lgp/{self.name}"},
            {"name": "LSD_SOMETHING_OF_ITS_OWN", "value": "true"},
        ]
        probe = {
            "httpGet": {"path": "/ok", "port": 8000},
            "periodSeconds": 15,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        }
        container = {
            "name": "api-server",
            "image": self.image,
            "ports": [{"name": "api-server", "containerPort": 8000, "protocol": "TCP"}],
            "env": [*more[:1], *self.environment(), *more[1:]],
            "resources": self.lgp()["spec"]["serverSpec"]["resources"],
            "livenessProbe": probe,
            "readinessProbe": probe,
        }
        return self._workload("Deployment", name, owner, container, replicas=2)

    def redis(self, owner: str = "") -> Manifest:
        container = {
            "name": "redis",
            "image": "redis:6",
            "ports": [{"containerPort": 6379}],
            "resources": {side: {"cpu": "1", "memory": "2Gi"} for side in ("requests", "limits")},
        }
        return self._workload("Deployment", f"{self.name}-redis", owner, container)

    def postgres(self, owner: str = "") -> Manifest:
        password = {"secretKeyRef": {"name": self.secret, "key": "POSTGRES_PASSWORD"}}
        container = {
            "name": "postgres",
            "image": "pgvector/pgvector:pg15",
            "args": ["postgres", "-c", "max_connections=150"],
            "ports": [{"containerPort": 5432}],
            "env": [
                {"name": "POSTGRES_PASSWORD", "valueFrom": password},
                {"name": "POSTGRES_USER", "value": "langgraph"},
                {"name": "POSTGRES_DB", "value": "agents"},
                {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
            ],
            "volumeMounts": [{"name": "postgres-data", "mountPath": "/var/lib/postgresql/data"}],
        }
        manifest = self._workload("StatefulSet", self.database, owner, container)
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
        manifest["spec"] |= {
            "serviceName": self.database,
            "volumeClaimTemplates": [{"metadata": {"name": "postgres-data"}, "spec": claim}],
        }
        return manifest

    def _workload(self, kind: str, name: str, owner: str, container: Manifest, replicas: int = 1) -> Manifest:
        labels = {"app": name, "team": "support", **dict(self.extra_labels)}
        metadata = {"labels": labels, "annotations": {"lgp.example/checksum": "c0ffee"}}
        account = {"serviceAccountName": self.account} if self.account else {}
        pod = {"enableServiceLinks": False, "containers": [container], **account}
        selector = {"matchLabels": {"app": name}}
        spec = {"replicas": replicas, "selector": selector, "template": {"metadata": metadata, "spec": pod}}
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": self.metadata(name, owner), "spec": spec}

    def service(self, name: str, port: int, owner: str = "", headless: bool = False) -> Manifest:
        ports = [{"name": "main", "port": port, "targetPort": port, "protocol": "TCP"}]
        spec = {"selector": {"app": name}, "ports": ports, **({"clusterIP": "None"} if headless else {})}
        return {"apiVersion": "v1", "kind": "Service", "metadata": self.metadata(name, owner), "spec": spec}

    def ingress(self) -> Manifest:
        backend = {"service": {"name": self.name, "port": {"number": 8000}}}
        other = {"service": {"name": "langgraph-dataplane-operator", "port": {"number": 8081}}}
        paths = [
            {"path": "/metrics", "pathType": "Prefix", "backend": other},
            {"path": f"/lgp/{self.name}", "pathType": "Prefix", "backend": backend},
        ]
        name, annotations = "langgraph-dataplane-ingress", {SHARED_INGRESS_ANNOTATION: "true"}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": name, "namespace": self.namespace, "annotations": annotations},
            "spec": {"rules": [{"host": HOST, "http": {"paths": paths}}]},
        }


PLURALS = {
    "LGP": "lgps",
    "Secret": "secrets",
    "Service": "services",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "Ingress": "ingresses",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ServiceAccount": "serviceaccounts",
}


def path_of(manifest: Manifest) -> str:
    """Return the URL of the collection that an object is in."""
    version, namespace = manifest["apiVersion"], manifest["metadata"]["namespace"]
    root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
    return f"{root}/namespaces/{namespace}/{PLURALS[manifest['kind']]}"


def create(http: httpx.Client, manifest: Manifest, manager: str) -> Manifest:
    """Create an object under the field manager `manager`, without server-side apply."""
    answer = http.post(path_of(manifest), params={"fieldManager": manager}, json=manifest)
    assert answer.status_code == 201, answer.text
    created: Manifest = answer.json()
    return created


def replace(http: httpx.Client, manifest: Manifest, manager: str) -> Manifest:
    """Read an object, set the spec and labels of `manifest`, and write the object, as a reconciler does."""
    path = f"{path_of(manifest)}/{manifest['metadata']['name']}"
    while True:
        live = http.get(path).raise_for_status().json()
        changed = deepcopy(live)
        changed["spec"] = {**deepcopy(manifest["spec"])}
        for field in ("clusterIP", "clusterIPs"):
            if field in live["spec"]:
                changed["spec"][field] = live["spec"][field]
        changed["metadata"]["labels"] = manifest["metadata"].get("labels", {})
        answer = http.put(path, params={"fieldManager": manager}, json=changed)
        if answer.status_code != 409:
            assert answer.status_code == 200, answer.text
            replaced: Manifest = answer.json()
            return replaced


def install(http: httpx.Client, upstream: Upstream, *, applied: bool = False, **spec: Any) -> Manifest:
    """Create every object of one Agent Server as upstream does; return the LGP. `applied`: by server-side apply."""

    def put(manifest: Manifest, manager: str) -> Manifest:
        if not applied:
            return create(http, manifest, manager)
        path = f"{path_of(manifest)}/{manifest['metadata']['name']}"
        headers = {"Content-Type": "application/apply-patch+yaml"}
        answer = http.patch(path, params={"fieldManager": manager, "force": "true"}, json=manifest, headers=headers)
        assert answer.status_code == 201, answer.text
        made: Manifest = answer.json()
        return made

    lgp = put(upstream.lgp(**spec), LISTENER_MANAGER)
    owner = lgp["metadata"]["uid"]
    put(upstream.password(), LISTENER_MANAGER)
    for manifest in (
        upstream.service(upstream.database, 5432, owner, headless=True),
        upstream.postgres(owner),
        upstream.service(f"{upstream.name}-redis", 6379, owner),
        upstream.redis(owner),
        upstream.server(owner),
        upstream.queue(owner),
        upstream.service(upstream.name, 8000, owner),
        upstream.ingress(),
    ):
        put(manifest, OPERATOR_MANAGER)
    return lgp
