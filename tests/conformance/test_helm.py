"""The real Helm (from a wheel) installs, upgrades, rolls back and removes a small chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.client import Api
from tests.conformance.workloads import live_pods, pods_become_ready, rolled_out
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

CHART = {
    "Chart.yaml": "apiVersion: v2\nname: small\nversion: 0.1.0\n",
    "values.yaml": "image: sandbox.local/hello:1\nreplicas: 1\nmessage: hello\n",
    "templates/all.yaml": """
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  message: {{ .Values.message | quote }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  replicas: {{ .Values.replicas }}
  selector:
    matchLabels: {app: small}
  template:
    metadata:
      labels: {app: small}
    spec:
      containers:
        - name: main
          image: {{ .Values.image }}
          ports: [{containerPort: 8000}]
""",
}


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chart") / "small"
    for name, text in CHART.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture
def releases(api_server: ApiServer, namespace: str) -> Iterator[Any]:
    with helm.Config(kubeconfig_path=api_server.kubeconfig, namespace=namespace) as config:
        yield config


def names(releases: Any) -> list[str]:
    return [release["name"] for release in releases.list()]


def test_install_and_uninstall(api: Api, releases: Any, chart: Path) -> None:
    release = releases.install(chart, "web", {"message": "hi"})
    assert release["name"] == "web"
    assert api.get("configmaps", "web")["data"] == {"message": "hi"}
    assert api.get("configmaps", "web")["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    assert names(releases) == ["web"]
    releases.uninstall("web")
    assert api.find("configmaps", "web") is None
    assert names(releases) == []
    eventually(lambda: not live_pods(api), "the Pods are gone")


def test_upgrade_and_rollback(api: Api, releases: Any, chart: Path) -> None:
    releases.install(chart, "web", {"replicas": 0})
    releases.upgrade(chart, "web", {"replicas": 0, "message": "changed", "image": "other:2"})
    assert api.get("configmaps", "web")["data"] == {"message": "changed"}
    containers = api.get("deployments", "web")["spec"]["template"]["spec"]["containers"]
    assert [item["image"] for item in containers] == ["other:2"]
    releases.rollback("web", version=1)
    assert api.get("configmaps", "web")["data"] == {"message": "hello"}
    assert [entry["revision"] for entry in releases.history("web")] == [1, 2, 3]


def test_install_waits_for_the_pods(api: Api, releases: Any, chart: Path) -> None:
    with pods_become_ready(api):
        releases.install(chart, "web", {"replicas": 2}, wait="watcher", timeout=50)
    assert rolled_out(api, "web")


def test_a_name_that_is_taken(api: Api, releases: Any, chart: Path) -> None:
    releases.install(chart, "web", {"replicas": 0})
    with pytest.raises(helm.HelmError, match=r"cannot re-?use a name"):
        releases.install(chart, "web", {"replicas": 0})


def test_what_the_server_refuses(api: Api, releases: Any, chart: Path) -> None:
    with pytest.raises(helm.HelmError, match="replicas"):
        releases.install(chart, "web", {"replicas": -1})
    assert api.find("deployments", "web") is None
