"""Helm installs, upgrades and removes the chart, on the embedded and on a real API server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engine.kubernetes.kinds import PLURALS
from engine.ports import Manifest
from sandbox import envtest
from tests.chart.rendering import NEEDED, RELEASE, ROOT, UPSTREAM, Values, at, chart, helm, layered, settings_of
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.faulty_server import of_version
from tests.support.namespaces import make_namespace
from tests.support.operator_stack import install_crd
from tests.support.service_accounts import elsewhere
from workers.app import CONTROL_PLANE, OPERATOR, RECONCILE, in_flight_key, list_key

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD = f"{CRDS}/lgps.apps.langchain.ai"
REFERENCE = ROOT.parent / "shared" / "reference" / "crds"

THERE = at("operator.createCRDs", False)
"""The CustomResourceDefinition of LGPs is already in the cluster."""

EVERYTHING: Values = {
    "flower": {"enabled": True, "existingSecretName": "flower"},
    "networkPolicy": {"enabled": True},
    "proxy": {"httpsProxy": "http://proxy.example:3128"},
    "caBundle": {"configMapName": "authorities"},
    "listener": {"pdb": {"enabled": True}, "autoscaling": {"enabled": True}},
    "operator": {"pdb": {"enabled": True}, "templates": {"service": "kind: Service"}},
    "redis": {"pdb": {"enabled": True}},
    "ingress": {
        "metricsPrefix": "data-plane",
        "tls": [{"hosts": ["agents.example.com"], "secretName": "tls"}],
        "ingressClassName": "nginx",
    },
    "commonLabels": {"team": "agents"},
    "commonAnnotations": {"owner": "platform"},
    "commonEnv": [{"name": "TZ", "value": "UTC"}],
    "commonVolumes": [{"name": "more", "emptyDir": {}}],
    "commonVolumeMounts": [{"name": "more", "mountPath": "/more"}],
}
"""Values that switch on everything that is off by default."""


BEFORE = """
{{- range $name := list "listener" "operator" "redis" }}
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" (eq $name "redis") }}
metadata:
  name: {{ $.Release.Name }}-{{ $name }}
spec:
  {{- if eq $name "redis" }}
  serviceName: {{ $.Release.Name }}-redis
  volumeClaimTemplates:
    - apiVersion: v1
      kind: PersistentVolumeClaim
      metadata:
        name: data
        labels:
          {{- with $.Values.name }}
          app.kubernetes.io/name: {{ . }}
          {{- end }}
          app.kubernetes.io/instance: {{ $.Release.Name }}
          app.kubernetes.io/component: {{ $.Release.Name }}-redis
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 8Gi}}
  {{- end }}
  replicas: 1
  selector:
    matchLabels:
      {{- with $.Values.name }}
      app.kubernetes.io/name: {{ . }}
      {{- end }}
      app.kubernetes.io/instance: {{ $.Release.Name }}
      app.kubernetes.io/component: {{ $.Release.Name }}-{{ $name }}
  template:
    metadata:
      labels:
        {{- with $.Values.name }}
        app.kubernetes.io/name: {{ . }}
        {{- end }}
        app.kubernetes.io/instance: {{ $.Release.Name }}
        app.kubernetes.io/component: {{ $.Release.Name }}-{{ $name }}
    spec:
      containers:
        - name: {{ $name }}
          image: registry.example/before
          env: [{name: LANGCHAIN_ENV, value: local_kubernetes}]
---
{{- end }}
"""
"""A template as in the upstream chart: workloads with the fields that an upgrade cannot change."""


def path_of(manifest: Manifest, namespace: str) -> str:
    version = manifest["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    plural = PLURALS[manifest["kind"]]
    name = manifest["metadata"]["name"]
    if manifest["kind"] == "CustomResourceDefinition":
        return f"{root}/{plural}/{name}"
    return f"{root}/namespaces/{manifest['metadata'].get('namespace', namespace)}/{plural}/{name}"


def manifests(release: Any) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(release["manifest"]) if manifest]


def versions(http: httpx.Client, release: Any, namespace: str) -> dict[str, Any]:
    """Return by path the uid, generation and content of every object, without its status."""
    found = {}
    for manifest in manifests(release):
        path = path_of(manifest, namespace)
        live = http.get(path)
        assert live.status_code == 200, f"{path}: {live.text}"
        found[path] = [live.json()["metadata"]["uid"], live.json()["metadata"].get("generation"), *content(live.json())]
    return found


def content(live: Manifest) -> list[Any]:
    metadata = {key: value for key, value in live["metadata"].items() if key in ("labels", "annotations")}
    if live["kind"] == "Deployment":  # its controller counts revisions in annotations
        metadata = {"labels": metadata["labels"]}
    return [metadata, *(live.get(key) for key in ("spec", "data", "rules", "roleRef", "subjects"))]


def lgp(namespace: str) -> Manifest:
    return {
        "apiVersion": "apps.langchain.ai/v1alpha1",
        "kind": "LGP",
        "metadata": {"name": "hello", "namespace": namespace},
        "spec": {"serverSpec": {"image": "registry.example/hello:1"}},
    }


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["least", "everything"])
def test_every_object_is_accepted_and_an_upgrade_without_a_change_changes_nothing(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any], values: Values
) -> None:
    namespace = namespaces()
    install_crd(server)
    config = releases(namespace)
    given = layered(NEEDED, THERE, values)

    release = config.install(chart(), RELEASE, given)
    with server.http() as http:
        before = versions(http, release, namespace)
        again = config.upgrade(chart(), RELEASE, given)
        assert versions(http, again, namespace) == before
        assert len(before) >= 20


def test_an_upgrade_keeps_the_paths_of_agents_on_the_shared_ingress(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any]
) -> None:
    namespace = namespaces()
    install_crd(server)
    config = releases(namespace)
    config.install(chart(), RELEASE, layered(NEEDED, THERE))
    shared = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{RELEASE}-ingress"
    backend = {"service": {"name": "hello", "port": {"number": 8000}}}
    rule = {
        "host": "agents.example.com",
        "http": {"paths": [{"path": "/lgp/hello", "pathType": "Prefix", "backend": backend}]},
    }
    with server.http() as http:
        assert http.get(shared).json()["spec"]["rules"] == [{"host": "agents.example.com"}]
        headers = {"Content-Type": "application/merge-patch+json", "User-Agent": "agentplane"}
        http.patch(shared, json={"spec": {"rules": [rule]}}, headers=headers).raise_for_status()

        extra = [{"path": "/docs", "pathType": "Prefix", "backend": backend}]
        config.upgrade(chart(), RELEASE, layered(NEEDED, THERE, at("ingress.additionalPaths", extra)))

        assert http.get(shared).json()["spec"]["rules"] == [rule]
        paths = http.get(shared.removesuffix("-ingress") + "-paths").json()["spec"]["rules"]
        assert paths == [{"host": "agents.example.com", "http": {"paths": extra}}]


def test_removal_leaves_agents_their_definition_and_the_event_log(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any]
) -> None:
    namespace = namespaces()
    with server.http() as http:
        http.delete(CRD)
        eventually(lambda: http.get(CRD).status_code == 404, "the definition is gone")
        config = releases(namespace)

        release = config.install(chart(), RELEASE, NEEDED)
        eventually(lambda: http.get("/apis/apps.langchain.ai/v1alpha1/lgps").status_code == 200, "LGPs are served")
        lgps = f"/apis/apps.langchain.ai/v1alpha1/namespaces/{namespace}/lgps"
        http.post(lgps, json=lgp(namespace)).raise_for_status()
        config.uninstall(RELEASE)

        left = [path for path in (path_of(m, namespace) for m in manifests(release)) if still(http, path)]
        assert left == [CRD]
        assert http.get(f"{lgps}/hello").status_code == 200
        claims = http.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims").json()["items"]
        assert [claim["metadata"]["name"] for claim in claims] in ([], [f"data-{RELEASE}-redis-0"])

        config.install(chart(), RELEASE, NEEDED)  # the kept CustomResourceDefinition still belongs to the release


def still(http: httpx.Client, path: str) -> bool:
    """Whether an object exists and is not being deleted."""
    answer = http.get(path)
    return answer.status_code == 200 and "deletionTimestamp" not in answer.json()["metadata"]


def test_a_second_installation_is_refused_because_the_definition_exists(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any]
) -> None:
    first, second = namespaces(), namespaces()
    with server.http() as http:
        http.delete(CRD)
        eventually(lambda: http.get(CRD).status_code == 404, "the definition is gone")
    releases(first).install(chart(), RELEASE, NEEDED)

    with pytest.raises(helm.HelmError) as refusal:
        releases(second).install(chart(), RELEASE, NEEDED)

    assert f"is already installed, by release {RELEASE} in namespace {first}" in str(refusal.value)
    assert "set operator.createCRDs=false" in str(refusal.value)
    assert releases(second).list() == []
    releases(second).install(chart(), RELEASE, layered(NEEDED, THERE))


def test_keda_scales_the_workers_if_it_is_installed_and_else_their_number_is_fixed(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any]
) -> None:
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not here")
    install_crd(server)
    scaled = {"autoscaling": {"enabled": True, "maxReplicas": 5, "keda": {"enabled": True}}}
    password = {"external": {"enabled": True, "connectionUrl": "rediss://me:secret@redis.example:6380/3"}}
    values = layered(NEEDED, THERE, {"listener": scaled, "operator": {**scaled, "threads": 8}, "redis": password})
    without = releases(namespaces())
    release = without.install(chart(), RELEASE, values)
    assert [m for m in manifests(release) if m["kind"] == "ScaledObject"] == []
    workers = next(
        m
        for m in manifests(release)
        if m["metadata"]["name"] == f"{RELEASE}-listener" and "replicas" in m.get("spec", {})
    )
    assert workers["spec"]["replicas"] == 3
    assert "there are 3" in without.get_all(RELEASE)["info"]["notes"]

    definitions = envtest.load_crds(
        REFERENCE / "scaledobjects.keda.sh.yaml", REFERENCE / "triggerauthentications.keda.sh.yaml"
    )
    with server.http() as http:
        for definition in definitions:
            assert http.post(CRDS, json=definition).status_code in (201, 409)
        eventually(
            lambda: http.get("/apis/keda.sh/v1alpha1/scaledobjects").status_code == 200, "ScaledObjects are served"
        )
        eventually(
            lambda: http.get("/apis/keda.sh/v1alpha1/triggerauthentications").status_code == 200,
            "TriggerAuthentications are served",
        )
        namespace = namespaces()
        release = releases(namespace).install(chart(), RELEASE, values)
        live, operator = (
            http.get(f"/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects/{RELEASE}-{name}").json()
            for name in ("listener", "operator")
        )
        for definition in definitions:
            http.delete(f"{CRDS}/{definition['metadata']['name']}")

    assert (live["spec"]["minReplicaCount"], live["spec"]["maxReplicaCount"]) == (3, 5)
    settings = settings_of(manifests(release))
    triggers = [trigger["metadata"] for trigger in live["spec"]["triggers"]]
    assert [(trigger["listName"], trigger["listLength"]) for trigger in triggers] == [
        (list_key(settings, CONTROL_PLANE), "64"),
        (list_key(settings, RECONCILE), "64"),
        (in_flight_key(settings, "listener"), "16"),
    ]
    assert [(t["metadata"]["listName"], t["metadata"]["listLength"]) for t in operator["spec"]["triggers"]] == [
        (list_key(settings, OPERATOR), "64"),
        (in_flight_key(settings, "operator"), "8"),
    ]
    assert {trigger["address"] for trigger in triggers} == {"redis.example:6380"}
    assert {(t["databaseIndex"], t["enableTLS"], t["username"]) for t in triggers} == {("3", "true", "me")}
    deployments = {m["metadata"]["name"]: m for m in manifests(release) if m["kind"] == "Deployment"}
    assert "replicas" not in deployments[f"{RELEASE}-listener"]["spec"]


def test_an_unsupported_kubernetes_version_is_refused(own_embedded: ApiServer, tmp_path: Path) -> None:
    namespace = make_namespace(own_embedded)
    with own_embedded.http() as http, of_version(http, "v1.29.14") as url:
        kubeconfig = elsewhere(own_embedded.kubeconfig, url, tmp_path)
        with (
            helm.Config(kubeconfig_path=kubeconfig, namespace=namespace) as config,
            pytest.raises(helm.HelmError, match=r"requires kubeVersion: >=1\.30\.0-0"),
        ):
            config.install(chart(), RELEASE, layered(NEEDED, THERE))


@pytest.mark.parametrize("name", ["langgraph-dataplane", "renamed", ""], ids=["newer", "another name", "older"])
def test_an_installation_of_the_upstream_chart_is_upgraded_in_place(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any], tmp_path: Path, name: str
) -> None:
    """Names, selectors and volume claim templates of Deployments and StatefulSets cannot change.

    Older versions of the upstream chart leave the name out of selectors.
    """
    namespace, folder = namespaces(), tmp_path / "before"
    install_crd(server)
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: langgraph-dataplane\nversion: 0.1.0\n")
    (folder / "templates" / "all.yaml").write_text(BEFORE)
    config = releases(namespace)
    config.install(folder, RELEASE, {"name": name})
    with server.http() as http:
        path = f"/apis/apps/v1/namespaces/{namespace}"
        listener = http.get(f"{path}/deployments/{RELEASE}-listener").json()
        redis = http.get(f"{path}/statefulsets/{RELEASE}-redis").json()

        config.upgrade(chart(), RELEASE, layered(NEEDED, THERE))

        after = http.get(f"{path}/deployments/{RELEASE}-listener").json()
        assert after["metadata"]["uid"] == listener["metadata"]["uid"]
        assert after["spec"]["selector"] == listener["spec"]["selector"]
        (ours,) = after["spec"]["template"]["spec"]["containers"]
        assert ours["image"] == "agentplane:0.1.0"
        assert "LANGCHAIN_ENV" not in {variable["name"] for variable in ours["env"]}
        again = http.get(f"{path}/statefulsets/{RELEASE}-redis").json()
        assert again["metadata"]["uid"] == redis["metadata"]["uid"]
        assert "--appendonly" in again["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.skipif(not UPSTREAM.exists(), reason=f"{UPSTREAM} is not here")
def test_the_upstream_values_file_installs_the_expected_workloads(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any]
) -> None:
    install_crd(server)
    namespace = namespaces()
    upstream = yaml.safe_load(UPSTREAM.read_text(encoding="utf-8"))

    release = releases(namespace).install(chart(), RELEASE, layered(upstream, NEEDED, THERE))

    workloads = {f"{m['kind']} {m['metadata']['name']}" for m in manifests(release) if "template" in m.get("spec", {})}
    assert workloads == {
        f"Deployment {RELEASE}-listener",
        f"Deployment {RELEASE}-operator",
        f"Deployment {RELEASE}-beat",
        f"Deployment {RELEASE}-watcher",
        f"StatefulSet {RELEASE}-redis",
    }
