"""The chart with upstream's default values, an image from k8s/Dockerfile, and only the values that must be set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.ports import Manifest
from tests.chart.rendering import RELEASE
from tests.cluster import place
from tests.cluster.cluster import Cluster, ready
from tests.cluster.data_plane import COMPONENTS, DataPlane
from tests.support.eventually import eventually


@pytest.fixture(scope="module")
def serving(plane: DataPlane) -> Iterator[DataPlane]:
    """The data plane with one Agent Server, because a proxy without a route may not listen at all."""
    plane.workspace.create("first", place.images("STUB")[0])
    plane.workspace.wait_until_deployed()
    yield plane
    plane.workspace.delete(plane.workspace.deployment("first")["id"])
    eventually(lambda: not plane.workspace.deployments(), "the deployment is gone")


def test_every_workload_is_ready(plane: DataPlane) -> None:
    found = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: ready(pod) for pod in plane.pods()}

    assert found == {f"{RELEASE}-{name}": True for name in (*COMPONENTS, "redis")}


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_doctor_neither_warns_nor_fails_in_a_pod(serving: DataPlane, component: str) -> None:
    findings = serving.findings(component)

    assert [finding for finding in findings if finding["level"] in ("warn", "fail")] == []
    assert {"settings", "redis", "workers"} <= {finding["subject"] for finding in findings}


def test_the_doctor_names_an_unreachable_redis(plane: DataPlane) -> None:
    address = ["env", "AGENTPLANE_REDIS_URL=redis://127.0.0.1:1/0", "agentplane", "doctor"]
    pod = f"deploy/{RELEASE}-listener"

    output = plane.cluster.kubectl("-n", plane.namespace, "exec", pod, "--", *address, check=False)

    assert "fail redis" in output


def test_pod_security_holds_in_both_namespaces(cluster: Cluster, plane: DataPlane) -> None:
    """The data plane runs under `restricted`, Agent Servers run under `baseline`, and the cluster enforces both."""
    as_root: Manifest = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "root", "image": "none"}]}}
    on_node = {"metadata": {"name": "host"}, "spec": {**as_root["spec"], "hostNetwork": True}}

    refused = [
        cluster.http.post(f"/api/v1/namespaces/{namespace}/pods", json=pod, params={"dryRun": "All"})
        for namespace, pod in ((plane.namespace, as_root), (plane.agents, on_node))
    ]

    assert [answer.status_code for answer in refused] == [403, 403]
    assert ['"restricted' in refused[0].text, '"baseline' in refused[1].text] == [True, True]
    events = cluster.listed("/api/v1/namespaces/{ns}/events", plane.namespace)
    assert [event["message"] for event in events if "violates PodSecurity" in event.get("message", "")] == []
