"""From nothing to a first deployment, as the guide goes: values, `helm upgrade -i --wait`, `langgraph deploy`, GET /ok.

Then what becomes of it: an upgrade under load, and removal. One installation for all of it.
"""

from __future__ import annotations

import re

import pytest
import yaml

from tests.chart.rendering import UPSTREAM, Values, layered
from tests.chart.test_installation import CRD
from tests.installation.cluster import Cluster, Installation, Workspace, ready, waiting

HELLO = f"sandbox.local/hello@sha256:{'1' * 64}"
HOSTNAME = "agents.example.com"

RETENTION = re.compile(r"\n *persistentVolumeClaimRetentionPolicy:(\n *when\w+: \w+)+")
"""In upstream's template of databases; the API server of these tests (Kubernetes 1.20) does not know the field yet."""

pytestmark = pytest.mark.timeout(400)


def guide(workspace: Workspace, namespace: str) -> Values:
    """The values file that the setup guide asks for."""
    return layered(
        workspace.values(),
        {
            "config": {"watchNamespaces": namespace, "enableLGPDeploymentHealthCheck": True},
            "ingress": {"hostname": HOSTNAME},
            "operator": {"enabled": True, "createCRDs": True},
        },
    )


def upstream() -> Values:
    """All values of the chart that people come from, where they are here."""
    if not UPSTREAM.exists():
        return {}
    return dict(yaml.safe_load(RETENTION.sub("", UPSTREAM.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> str:
    return cluster.namespace()


@pytest.fixture(scope="module")
def workspace(cluster: Cluster, namespace: str) -> Workspace:
    return cluster.workspace(namespace)


@pytest.fixture(scope="module")
def installed(cluster: Cluster, workspace: Workspace, namespace: str) -> Installation:
    """The chart in a cluster that has nothing of it, by the guide."""
    cluster.http.delete(CRD)
    waiting(lambda: cluster.http.get(CRD).status_code == 404, "nobody has the definition of LGPs")
    values = layered(upstream(), guide(workspace, namespace), cluster.local(), cluster.own_redis())
    release = Installation(cluster, namespace, values)
    release.upgrade()
    return release


@pytest.fixture(scope="module")
def hello(installed: Installation, workspace: Workspace) -> str:
    """The URL of a first deployment, made with `langgraph deploy`: a real Agent Server."""
    deployed = workspace.langgraph_deploy("hello", HELLO, GREETING_SECRET="s3cret")
    assert deployed.returncode == 0, f"{deployed.stdout}\n{deployed.stderr}\n{installed.told()}"
    url: str = workspace.deployment("hello")["source_config"]["custom_url"]
    return url


def test_a_first_deployment(cluster: Cluster, installed: Installation, workspace: Workspace, hello: str) -> None:
    pods = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: ready(pod) for pod in installed.pods()}
    assert pods == {
        f"langgraph-dataplane-{name}": True for name in ("beat", "listener", "operator", "redis", "watcher")
    }

    deployment = workspace.deployment("hello")
    assert workspace.status(deployment) == "DEPLOYED"
    assert hello.startswith(f"http://{HOSTNAME}/lgp/hello-")
    assert cluster.get(f"{hello}/ok").json()["ok"] is True
    assert cluster.get(f"{hello}/info").json()["host"]["revision_id"] == deployment["latest_revision_id"]
