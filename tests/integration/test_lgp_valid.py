"""The LGPs that our listener makes are valid under upstream's definition and under ours, and cost no second write.

Every value of the control plane's `resource_spec` arrives in the LGP unchanged: nothing is pruned, and applying the
same manifest again changes no resourceVersion (after a pause, since a real API server stamps a write with its second).
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.clock import SystemClock
from engine.kubernetes.cluster import KubernetesCluster
from engine.listener import resource as resources
from engine.listener.config import ListenerConfig
from engine.listener.desired import desired_manifest
from engine.listener.events import RevisionRequested
from engine.listener.machine import ListenerMachine
from engine.names import LISTENER_MANAGER
from engine.ports import Manifest
from engine.runtime.values import replace
from sandbox import envtest
from tests.support.eventually import eventually
from tests.support.listener import LISTENER, WORKSPACE, keyed, resource

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY.parent / "shared" / "reference"
DEFINITIONS = {
    "ours": REPOSITORY / "k8s" / "crds" / "lgps.apps.langchain.ai.yaml",
    "upstream": REFERENCE / "crds" / "lgps.apps.langchain.ai.yaml",
}
OPENAPI = REFERENCE / "control-plane-openapi.json"
STAMP_SECONDS = 1.1
CONFIG = ListenerConfig(
    listener_id=LISTENER,
    workspace_id=WORKSPACE,
    namespaces=("default", "agents"),
    smith_url="https://smith.example",
    hostname="agents.example",
)

Spec = dict[str, Any]

CONTAINER: Spec = {
    "name": "proxy",
    "image": "proxy@sha256:abc",
    "imagePullPolicy": "Always",
    "command": ["/bin/proxy"],
    "args": ["--listen", ":9090"],
    "workingDir": "/srv",
    "env": [
        {"name": "MODE", "value": "fast"},
        {"name": "ÜMLAUT", "value": "größer \n \u2028 ☃ \x7f \x85 \u2029 \ufeff \uffff 🐘 \t."},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "proxy", "key": "token", "optional": True}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "settings"}}, {"prefix": "P_", "secretRef": {"name": "s"}}],
    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1.5Gi"}},
    "volumeMounts": [{"name": "cache", "mountPath": "/cache", "subPath": "a", "readOnly": False}],
    "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
}
VOLUMES: list[Spec] = [
    {"name": "cache", "emptyDir": {}},
    {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    {"name": "config", "configMap": {"name": "settings", "defaultMode": 420, "items": [{"key": "a", "path": "b"}]}},
    {"name": "secret", "secret": {"secretName": "s", "optional": True}},
    {"name": "claim", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
    {"name": "nfs", "nfs": {"server": "nfs.example", "path": "/"}},
    {
        "name": "projected",
        "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]},
    },
    {"name": "pod", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    {"name": "csi", "csi": {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"secretProviderClass": "x"}}},
]
MOUNTS: list[Spec] = [
    {"name": "cache", "mountPath": "/cache", "mountPropagation": "None"},
    {"name": "config", "mountPath": "/etc/app", "readOnly": True, "subPathExpr": "$(POD)"},
]

FULL: Spec = {
    "min_scale": 2,
    "max_scale": 10,
    "cpu": 1.5,
    "cpu_limit": 3,
    "memory_mb": 1500,
    "memory_limit_mb": 4096,
    "queue_min_scale": 1,
    "queue_max_scale": 20,
    "queue_cpu": 0.3,
    "queue_cpu_limit": 0.9,
    "queue_memory_mb": 1025,
    "queue_memory_limit_mb": 2050,
    "redis_cpu": 0.1,
    "redis_cpu_limit": 0.2,
    "redis_memory_mb": 512,
    "redis_memory_limit_mb": 768,
    "db_cpu": 0.25,
    "db_cpu_limit": 2.5,
    "db_memory_mb": 2048,
    "db_memory_limit_mb": 8192,
    "db_storage_gi": 200,
    "db_max_connections": 500,
    "labels": {"team": "search", "cost.example/centre": "42"},
    "annotations": {"example.com/note": 'ein längerer\nText, mit "Zeichen" 🐘', "example.com/json": '{"a": [1]}'},
    "service_account_name": "runner",
    "image_pull_secrets": [{"name": "registry"}, {"name": "mirror"}],
    "volumes": VOLUMES,
    "volume_mounts": MOUNTS,
    "init_containers": [{"name": "migrate", "image": "migrate:1", "restartPolicy": "Always"}],
    "sidecars": [CONTAINER, {"name": "plain", "image": "plain"}],
}
EXTREMES: dict[str, Spec] = {
    "nothing": {},
    "least": {"min_scale": 0, "max_scale": 0, "cpu": 0.1, "memory_mb": 1, "db_storage_gi": 1, "db_max_connections": 1},
    "most": {
        "min_scale": 2**31 - 1,
        "max_scale": 2**31 - 1,
        "cpu": 8,
        "cpu_limit": 16,
        "memory_mb": 2**31 - 1,
        "db_storage_gi": 10**6,
        "db_max_connections": 2**31 - 1,
    },
    "rounded": {"cpu": 0.30000000000000004, "cpu_limit": 7.949999, "queue_cpu": 1.25, "redis_cpu": 2.9999},
    "empty lists": {"volumes": [], "volume_mounts": [], "sidecars": [], "init_containers": [], "labels": {}},
    "nulls": dict.fromkeys(FULL),
    "null inside": {"sidecars": [{"name": "s", "image": "s", "command": None, "env": None, "resources": None}]},
    "unused": {"orchestrator_cpu": 1, "executor_memory_mb": 5, "of_a_newer_api": {"x": 1}},
    "backwards": {"min_scale": 5, "max_scale": 2, "queue_min_scale": 3, "queue_max_scale": 1},
    "long": {"annotations": {"example.com/long": "x" * 100_000}, "labels": {"l": "x" * 63}},
    "many": {"sidecars": [{"name": f"s{n}", "image": "s", "env": [{"name": "A", "value": "1"}]} for n in range(40)]},
}
EMPTY_VALUES: Spec = {
    "sidecars": [{"name": "s", "image": "s", "env": [{"name": "EMPTY", "value": ""}], "args": [""]}],
    "volumes": [{"name": "v", "emptyDir": {"medium": ""}}],
    "labels": {"bare": ""},
    "annotations": {"bare": ""},
}
SPECS: dict[str, Spec] = {
    **{f"only {name}": {name: value} for name, value in FULL.items()},
    "full": FULL,
    **EXTREMES,
}


def test_every_field_of_the_control_planes_is_tried() -> None:
    if not OPENAPI.exists():
        pytest.skip(f"the control plane's OpenAPI is not at {OPENAPI}")
    schema = json.loads(OPENAPI.read_text())["components"]["schemas"]["ResourceSpec-Output"]
    used = {name for name, field in schema["properties"].items() if field.get("description") != "do not use"}
    assert FULL.keys() == used


def lgp(namespace: str, spec: Spec, **changes: Any) -> Manifest:
    """Return the LGP that the listener makes for a deployment of the control plane."""
    raw = resource(**changes)
    raw["source_config"] |= {"resource_spec": spec, "listener_config": {"k8s_namespace": namespace}}
    machine = ListenerMachine(CONFIG)
    state, now = machine.initial, SystemClock().now()
    for event in resources.changes_to(
        state, resources.parse_deployment(raw), resources.content_digest(raw, keyed), keyed
    ):
        state = machine.evolve(state, event, now)
        if isinstance(event, RevisionRequested):
            assert state.revision is not None
            revision = replace(state.revision, secret="the-secret")
            state = replace(state, revisions=replace(state.revisions, current=revision))
    return desired_manifest(state, CONFIG)


@pytest.fixture(scope="module")
def server() -> Iterator[envtest.RealControlPlane]:
    """Start a real API server for these tests alone, because the tests change its definition of LGPs."""
    if reason := envtest.available():
        pytest.skip(f"real API server: {reason}")
    with envtest.RealControlPlane() as running:
        yield running


@pytest.fixture(scope="module", params=sorted(DEFINITIONS))
def cluster(request: pytest.FixtureRequest, server: envtest.RealControlPlane) -> Iterator[KubernetesCluster]:
    """The API server with one of the two definitions in force."""
    file = DEFINITIONS[request.param]
    if not file.exists():
        pytest.skip(f"upstream's definition is not at {file}")
    (definition,) = envtest.load_crds(file)
    cluster = KubernetesCluster.load(server.kubeconfig)
    with client(server) as http:
        cluster.apply(definition, manager="test")
        eventually(lambda: prunes_sidecars(http) is (request.param == "upstream"), f"the definition {file} is in force")
    yield cluster
    cluster.close()


def client(server: envtest.RealControlPlane) -> httpx.Client:
    return httpx.Client(
        base_url=server.url,
        headers={"Authorization": f"Bearer {server.token}"},
        verify=ssl.create_default_context(cafile=str(server.ca)),
        timeout=30,
    )


def prunes_sidecars(http: httpx.Client) -> bool | None:
    """Return whether the served definition prunes unknown sidecar fields; None while no definition is served."""
    probe = {
        "apiVersion": "apps.langchain.ai/v1alpha1",
        "kind": "LGP",
        "metadata": {"name": "probe"},
        "spec": {"serverSpec": {"sidecars": [{"name": "s", "unknown": "field"}]}},
    }
    answer = http.post("/apis/apps.langchain.ai/v1alpha1/namespaces/default/lgps", json=probe, params={"dryRun": "All"})
    return "unknown" not in answer.json()["spec"]["serverSpec"]["sidecars"][0] if answer.status_code == 201 else None


def kept(asked: Any, got: Any, path: str = "spec") -> list[str]:
    """Return the paths at which `got` lacks or changes a value of `asked`; `got` may have additional defaults."""
    if isinstance(asked, dict) and isinstance(got, dict):
        return [p for key, value in asked.items() for p in kept(value, got.get(key), f"{path}.{key}")]
    if isinstance(asked, list) and isinstance(got, list) and len(asked) == len(got):
        return [
            p for n, (one, other) in enumerate(zip(asked, got, strict=True)) for p in kept(one, other, f"{path}[{n}]")
        ]
    return [] if asked == got else [f"{path}: {asked!r} became {got!r}"]


def empty_values(manifest: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of empty strings."""
    match manifest:
        case dict():
            for key, value in manifest.items():
                yield from empty_values(value, f"{path}.{key}")
        case list():
            for number, value in enumerate(manifest):
                yield from empty_values(value, f"{path}[{number}]")
        case "":
            yield path.lstrip(".")


def test_all_arrive_unchanged_and_cost_no_second_write(cluster: KubernetesCluster) -> None:
    problems: dict[str, object] = {}
    manifests = {name: lgp("default", spec) for name, spec in SPECS.items()}
    first = {}
    for number, (name, manifest) in enumerate(manifests.items()):
        manifest["metadata"]["name"] = f"lgp-{number}"
        try:
            applied = cluster.apply(manifest, manager=LISTENER_MANAGER)
        except Exception as refusal:
            problems[name] = str(refusal)
            continue
        first[name] = applied.manifest["metadata"]["resourceVersion"]
        if lost := kept(manifest["spec"], applied.manifest["spec"]):
            problems[name] = lost
    time.sleep(STAMP_SECONDS)
    for name in first:
        again = cluster.apply(manifests[name], manager=LISTENER_MANAGER)
        if again.changed or again.manifest["metadata"]["resourceVersion"] != first[name]:
            problems[name] = "written a second time"

    assert problems == {}


def test_the_listener_writes_no_empty_value_of_its_own() -> None:
    """An environment variable without a value has no `value` key in the LGP."""
    found = {
        (name, path)
        for name, spec in SPECS.items()
        for path in empty_values(lgp("agents", spec, secrets=[], secret_references=[])["spec"])
    }
    assert found == set()


def test_empty_values_of_the_owner_arrive_too(cluster: KubernetesCluster) -> None:
    manifest = lgp("default", EMPTY_VALUES)
    manifest["metadata"]["name"] = "empty-values"

    applied = cluster.apply(manifest, manager=LISTENER_MANAGER)

    assert kept(manifest["spec"], applied.manifest["spec"]) == []


def test_a_name_of_its_own_database_and_secrets(cluster: KubernetesCluster) -> None:
    secrets = [{"name": "POSTGRES_URI_CUSTOM", "value": "postgres://x"}, {"name": "EMPTY", "value": ""}]
    reference = {"name": "REDIS_URI_CUSTOM", "secret_name": "mine", "secret_key": "uri"}
    manifest = lgp("default", {}, secrets=secrets, secret_references=[reference], name="A Name, with 20% Ünicode!")

    applied = cluster.apply(manifest, manager=LISTENER_MANAGER)

    assert kept(manifest["spec"], applied.manifest["spec"]) == []
    assert applied.manifest["spec"]["database"]["enabled"] is False
