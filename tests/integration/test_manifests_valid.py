"""A real kube-apiserver takes every manifest, and applying one again changes nothing; the sandbox's does the same.

The second apply proves that manifests are spelled as the API server spells them: a difference in spelling alone would
be a write. An API server stamps a write with the current second, so the tests pause between the two applies.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engine.operator import manifests
from engine.operator.config import Gateway, OperatorConfig, SharedIngress, Templates
from engine.operator.lgp import Lgp, read_lgp
from engine.operator.manifests import quantity
from engine.ports import ObjectKey
from sandbox import envtest
from tests.support.api_servers import ApiServer
from tests.support.definitions import SECRET_PROVIDER_CLASSES

CRDS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "crds"
PLURALS = {
    "Deployment": "deployments",
    "HTTPRoute": "httproutes",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Ingress": "ingresses",
    "LGP": "lgps",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ScaledObject": "scaledobjects",
    "Secret": "secrets",
    "SecretProviderClass": "secretproviderclasses",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StatefulSet": "statefulsets",
    "VirtualService": "virtualservices",
}
STAMP_SECONDS = 1.1
"""Longer than the resolution of the time in managedFields."""

RESOURCES = {"requests": {"cpu": "0.5", "memory": "1.5Gi"}, "limits": {"cpu": 1, "memory": "2048Mi"}}
FULL_SERVER: dict[str, Any] = {
    "image": "registry.example/hello@sha256:abc",
    "replicas": 2,
    "numJobsPerWorker": 4,
    "resources": RESOURCES,
    "queueResources": {"limits": {"cpu": "2000m", "memory": "4096Mi"}},
    "serviceAccountName": "runner",
    "imagePullSecrets": [{"name": "registry"}],
    "labels": {"tier": "api"},
    "annotations": {"agentplane.dev/secrets-digest": "d1"},
    "env": [
        {"name": "EMPTY"},
        {"name": "LITERAL", "value": "x $(OTHER)"},
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
        {"name": "FROM_MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"containerName": "api-server", "resource": "limits.cpu"}}},
        {"name": "LITERAL", "value": "again"},
    ],
    "initContainers": [{"name": "migrate", "image": "migrate:1", "args": ["up"], "env": [{"name": "A"}]}],
    "sidecars": [
        {
            "name": "proxy",
            "image": "proxy:1",
            "ports": [{"containerPort": 9090}],
            "resources": {"requests": {"memory": "1024Ki"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 9090}},
        }
    ],
    "volumes": [
        {"name": "cache", "emptyDir": {"sizeLimit": "1024Mi"}},
        {"name": "config", "configMap": {"name": "settings"}},
        {"name": "pod", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ],
    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}, {"name": "pod", "mountPath": "/pod", "readOnly": True}],
}
FULL: dict[str, Any] = {
    "serverSpec": FULL_SERVER,
    "database": {
        "enabled": True,
        "maxConnections": 250,
        "storageSizeGi": 1024,
        "secretName": "pg",
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
    },
    "redis": {"enabled": True, "resources": {"limits": {"memory": "1024Mi", "cpu": "1000m"}}},
    "ingress": {"enabled": True},
    "labels": {"team": "search"},
    "annotations": {"example.com/cost-centre": "42"},
    "nodeSelector": {"pool": "agents"},
    "tolerations": [{"key": "agents", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 1,
                    "podAffinityTerm": {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"tier": "api"}},
                    },
                }
            ]
        }
    },
}
CUSTOM = [
    {"name": "POSTGRES_URI_CUSTOM", "value": "postgresql://elsewhere/db"},
    {"name": "REDIS_URI_CUSTOM", "valueFrom": {"secretKeyRef": {"name": "s", "key": "r"}}},
]
IMAGE = "registry.example/hello:1"
SPECS: dict[str, dict[str, Any]] = {
    "least": {"serverSpec": {"image": IMAGE}},
    "single": {"serverSpec": {"image": IMAGE, "queueEnabled": False, "replicas": 0}},
    "usual": {
        "serverSpec": {"image": IMAGE, "replicas": 1, "resources": RESOURCES},
        "database": {"enabled": True},
        "redis": {"enabled": True},
        "ingress": {"enabled": True},
    },
    "full": FULL,
    "custom": {
        "serverSpec": {"image": IMAGE, "env": CUSTOM},
        "database": {"enabled": True},
        "redis": {"enabled": True},
    },
    "legacy": {"serverSpec": {"image": IMAGE}, "database": {"enabled": True, "legacyName": True}},
    "managed": {
        "serverSpec": {"image": IMAGE, "replicas": 3},
        "redis": {"enabled": True},
        "annotations": {"example.com/cost-centre": "42"},
        "managedResources": {
            "serviceAccount": {"annotations": {"client": "c-1"}, "automountServiceAccountToken": False},
            "secretProviderClass": {
                "name": "vault",
                "provider": "azure",
                "parameters": {
                    "keyvaultName": "v",
                    "usePodIdentity": "false",
                    "objects": "array:\n- |\n  objectName: k\n",
                },
            },
        },
    },
    "autoscaled": {
        "serverSpec": {"image": IMAGE, "resources": RESOURCES},
        "database": {"enabled": True},
        "autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 4, "queueMinReplicas": 0},
        "ingress": {"enabled": True},
    },
}
GATEWAY = Gateway(enabled=True, name="public", namespace="edge", hostname="agents.example.com:443", base_path="/x")
CONFIGS = {
    "ingress": OperatorConfig(
        ingress=SharedIngress(hostname="agents.example.com"),
        revision_history_limit=3,
        redis_key_prefix=True,
        pod_disruption_budgets=True,
    ),
    "gateway": OperatorConfig(ingress=SharedIngress(enabled=False), gateway=GATEWAY, keda_enabled=True),
    "istio": OperatorConfig(ingress=SharedIngress(enabled=False), istio_gateway=GATEWAY, keda_enabled=True),
}


class Api:
    """The requests to an API server that these tests need."""

    def __init__(self, http: httpx.Client, namespace: str) -> None:
        self.http = http
        self.namespace = namespace

    def url(self, manifest: Mapping[str, Any], name: str | None = None) -> str:
        version = manifest["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return f"{root}/namespaces/{self.namespace}/{PLURALS[manifest['kind']]}" + (f"/{name}" if name else "")

    def apply(self, manifest: Mapping[str, Any], **params: str) -> dict[str, Any]:
        return self.answer(
            self.http.patch(
                self.url(manifest, manifest["metadata"]["name"]),
                params={"fieldManager": "agentplane-operator", "force": "true", **params},
                content=json.dumps(manifest),
                headers={"Content-Type": "application/apply-patch+yaml"},
            ),
            manifest,
        )

    def create(self, manifest: Mapping[str, Any], **params: str) -> dict[str, Any]:
        return self.answer(self.http.post(self.url(manifest), params=params, json=manifest), manifest)

    def put(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        url = self.url(manifest, manifest["metadata"]["name"])
        return self.answer(self.http.put(url, json=manifest), manifest)

    def version(self, manifest: Mapping[str, Any]) -> str:
        found = self.answer(self.http.get(self.url(manifest, manifest["metadata"]["name"])), manifest)
        version: str = found["metadata"]["resourceVersion"]
        return version

    @staticmethod
    def answer(response: httpx.Response, manifest: Mapping[str, Any]) -> dict[str, Any]:
        what = f"{manifest['kind']} {manifest['metadata'].get('name')}"
        assert response.is_success, f"{what}: {response.status_code} {response.text[:2000]}"
        body: dict[str, Any] = response.json()
        return body


@pytest.fixture(scope="module")
def http(api_server: ApiServer) -> Iterator[httpx.Client]:
    """Return a client of an API server that serves every kind; routes and scalers have their real definitions."""
    if not CRDS.exists():
        pytest.skip("no custom resource definitions of LGP, KEDA, Gateway API and Istio beside the checkout")
    with api_server.http() as client:
        for crd in envtest.load_crds(CRDS):
            created = client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd)
            assert created.is_success or created.status_code == 409, created.text
        define_secret_provider_classes(client)
        groups = ("apps.langchain.ai/v1alpha1", "keda.sh/v1alpha1", "gateway.networking.k8s.io/v1")
        for group in (*groups, "networking.istio.io/v1"):
            wait_for_resources(client, group)
        yield client


def define_secret_provider_classes(client: httpx.Client) -> None:
    created = client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=SECRET_PROVIDER_CLASSES)
    assert created.is_success or created.status_code == 409, created.text
    deadline = time.monotonic() + 60
    while not client.get("/apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasses").is_success:
        assert time.monotonic() < deadline, "SecretProviderClasses are not served"
        time.sleep(0.1)


def wait_for_resources(client: httpx.Client, group: str) -> None:
    deadline = time.monotonic() + 60
    wanted = {plural for plural in PLURALS.values() if plural in ("lgps", "scaledobjects", "httproutes")}
    wanted = {"virtualservices"} if "istio" in group else wanted
    while time.monotonic() < deadline:
        found = client.get(f"/apis/{group}")
        if found.is_success and wanted & {one["name"] for one in found.json()["resources"]}:
            return
        time.sleep(0.1)
    pytest.fail(f"{group} is not served")


@pytest.fixture
def api(http: httpx.Client) -> Iterator[Api]:
    name = f"manifests-{secrets.token_hex(5)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    http.post("/api/v1/namespaces", json=body).raise_for_status()
    yield Api(http, name)
    http.delete(f"/api/v1/namespaces/{name}")


def stored_lgp(api: Api, spec: Mapping[str, Any]) -> Lgp:
    """Store an LGP and return it: the real definition has accepted the LGP, and garbage collection knows its uid."""
    manifest = {
        "apiVersion": "apps.langchain.ai/v1alpha1",
        "kind": "LGP",
        "metadata": {"name": "hello-0123456789abcdef0123456789abcdef", "namespace": api.namespace},
        "spec": spec,
    }
    stored = api.create(manifest)
    if "managedResources" in spec:  # upstream's definition has no such field yet and prunes it
        stored["spec"]["managedResources"] = spec["managedResources"]
    return read_lgp(stored)


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        *((spec, "ingress") for spec in SPECS),
        *((spec, config) for spec in ("usual", "autoscaled") for config in ("gateway", "istio")),
        ("full", "upstream's templates"),
    ],
)
def test_everything_is_accepted_and_applying_again_changes_nothing(api: Api, spec: str, config: str) -> None:
    acknowledged(api, stored_lgp(api, SPECS[spec]), CONFIGS[config] if config in CONFIGS else with_upstream_templates())


def with_upstream_templates() -> OperatorConfig:
    """Return a configuration with the templates that existing values files hold."""
    values = yaml.safe_load((CRDS.parent / "langgraph-dataplane-values.yaml").read_text())
    return OperatorConfig(templates=Templates(**values["operator"]["templates"]))


def acknowledged(api: Api, one: Lgp, config: OperatorConfig) -> None:
    """Apply everything twice; fail unless the second time writes nothing."""
    for credential in manifests.credentials(one, config):
        api.create(credential.with_values({field.field: "p" for field in credential.generated}))
    unsettled = manifests.objects(one, config)
    for manifest in unsettled:
        stored = api.apply(manifest)
        assert stored["metadata"]["ownerReferences"][0]["uid"] == one.uid
    deadline = time.monotonic() + 20
    while unsettled and time.monotonic() < deadline:
        time.sleep(STAMP_SECONDS)
        unsettled = [manifest for manifest in unsettled if changes(api, manifest)]
    assert [str(ObjectKey.of(manifest)) for manifest in unsettled] == []


def changes(api: Api, manifest: dict[str, Any]) -> bool:
    """Return whether applying `manifest` writes. A controller's status write at that moment gives the same result."""
    before = api.version(manifest)
    return bool(api.apply(manifest)["metadata"]["resourceVersion"] != before)


def test_quantities_are_spelled_as_the_api_server_spells_them(api: Api) -> None:
    one = stored_lgp(api, SPECS["least"])
    deployment = next(it for it in manifests.objects(one, OperatorConfig()) if it["kind"] == "Deployment")
    texts = ["1", "1000m", "1500m", "0.5", ".5", "2000", "100k", "2048Mi", "1.5Gi", "0.5Ki", "1024Gi", "1e3"]
    texts += ["0", "0Gi", "1M", "1000M", "1.5", "5E", "1Ei", "123456789"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    deployment["spec"]["template"]["spec"]["containers"] = [
        {**deepcopy(container), "name": f"c{index}", "resources": {"limits": {"memory": text}}}
        for index, text in enumerate(texts)
    ]
    created = api.create(deployment, dryRun="All")
    limits = [it["resources"]["limits"]["memory"] for it in created["spec"]["template"]["spec"]["containers"]]
    assert dict(zip(texts, limits, strict=True)) == {text: quantity.canonical(text) for text in texts}


def test_paths_come_and_go_on_a_shared_ingress(api: Api) -> None:
    one = stored_lgp(api, SPECS["usual"])
    path = manifests.ingress_path(one, CONFIGS["ingress"])
    assert path is not None
    ingress = api.create(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "shared", "annotations": {"lgp-operator.io/shared-ingress": "true"}},
            "spec": {"rules": [{"host": path.host}]},
        }
    )
    with_it = api.put(manifests.with_path(ingress, path.path, path.service, path.port, host=path.host))
    assert manifests.with_path(with_it, path.path, path.service, path.port, host=path.host) == with_it
    without = api.put(manifests.without_path(with_it, path.path))
    assert without["spec"] == ingress["spec"]
