"""Failing autoscalers, on an embedded and a real API server: conditions report the failure, its fix, and the recovery.

Only the last test runs a real autoscaler. The other tests write the status that an autoscaler's controller would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from engine.listener.state import Phase
from engine.operator import decide
from engine.ports import ObjectKey
from engine.queries import find
from sandbox import envtest
from sandbox.control_plane.server import ControlPlane
from tests.support.api_servers import ApiServer, running_real
from tests.support.autoscaling import KEDA, NAME, QUIET, keda_installed
from tests.support.eventually import eventually
from tests.support.listener_stack import KEY, WORKSPACE
from tests.support.listener_stack import at_work as listener_at_work
from tests.support.operator_stack import Kubelet, Operator, at_work, lgp_manifest, shared_ingress

BOUNDS = {"enabled": True, "minReplicas": 1, "maxReplicas": 8}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits of minutes."""
    monkeypatch.setattr(decide, "GRACE", timedelta(seconds=2))


@pytest.fixture(scope="module")
def http(own_api_server: ApiServer) -> Iterator[httpx.Client]:
    with own_api_server.http() as client:
        yield client


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


def write_status(http: httpx.Client, namespace: str, plural: str, name: str, *conditions: tuple[str, str, str]) -> None:
    """Write the status of an autoscaler as its controller does."""
    group = "autoscaling/v2" if plural.startswith("horizontal") else "keda.sh/v1alpha1"
    at = "2026-01-01T00:00:00Z"
    reported = [
        {"type": kind, "status": status, "reason": reason, "message": f"says {reason}", "lastTransitionTime": at}
        for kind, status, reason in conditions
    ]
    status: dict[str, Any] = {"conditions": reported}
    if group.startswith("autoscaling"):
        status |= {"desiredReplicas": 1, "currentMetrics": []}
    path = f"/apis/{group}/namespaces/{namespace}/{plural}/{name}/status"
    merge = {"Content-Type": "application/merge-patch+json"}
    http.patch(path, json={"status": status}, headers=merge).raise_for_status()


def test_conditions_and_status_report_a_cluster_without_metrics(
    plane: ControlPlane, own_api_server: ApiServer, http: httpx.Client, namespace: str
) -> None:
    """The revision becomes DEPLOYED all the same, and `agentplane status` shows the reason."""
    with (
        listener_at_work(plane, own_api_server, namespace, operator_enabled=True) as both,
        Kubelet(own_api_server, namespace),
    ):
        both.engine.ports.cluster.create(shared_ingress(namespace))
        source = {
            "listener_id": both.engine.settings.stream_name,
            "listener_config": {"k8s_namespace": namespace},
            "resource_spec": {"cpu": 0.5, "memory_mb": 512, "min_scale": 1, "max_scale": 3},
        }
        deployment_id = both.deploy(source_config=source)
        eventually(lambda: both.phase(deployment_id) is Phase.DEPLOYED, "the deployment is deployed")
        name = both.key(deployment_id).name
        for target in (name, f"{name}-queue"):
            failed = ("ScalingActive", "False", "FailedGetResourceMetric")
            write_status(http, namespace, "horizontalpodautoscalers", target, failed)

        def condition() -> dict[str, Any]:
            return next(c for c in both.lgp(deployment_id)["status"]["conditions"] if c["type"] == "Autoscaling")

        eventually(lambda: condition()["reason"] == "FailedGetResourceMetric", "the LGP tells")
        assert condition()["status"] == "False"
        assert "metrics-server" in condition()["message"]
        eventually(
            lambda: find(both.events, deployment_id).reason.startswith("FailedGetResourceMetric"), "so does status"
        )
        view = find(both.events, deployment_id)
        assert (view.phase, view.failed) == ("DEPLOYED", False)


def test_the_condition_reports_a_trigger_error_of_keda_and_its_recovery(
    own_api_server: ApiServer, http: httpx.Client, namespace: str
) -> None:
    with keda_installed(http), at_work(own_api_server, namespace, config=KEDA) as operator:
        server = {"queueEnabled": False}
        operator.put(lgp_manifest(namespace, NAME, serverSpec=server, autoscaling=BOUNDS, **QUIET))
        eventually(lambda: operator.available(NAME), "the Agent Server is available")
        write_status(http, namespace, "scaledobjects", NAME, ("Ready", "False", "TriggerError"))
        made_by_keda(operator, http)

        eventually(lambda: reported(operator)[1] == "TriggerError", "the condition reports the failure")
        assert reported(operator)[0] == "False"
        message = operator.condition(NAME, "Autoscaling")["message"]
        assert "log of keda-operator" in message
        eventually(
            lambda: f"keda-hpa-{NAME}" in operator.condition(NAME, "Autoscaling")["message"], "and what its HPA says"
        )
        assert operator.available(NAME), "the Agent Server is available"

        write_status(http, namespace, "scaledobjects", NAME, ("Ready", "True", "ScaledObjectReady"))
        operator.watching.delete(horizontal(operator))
        eventually(lambda: reported(operator) == ("True", "Applied"), "the condition reports the recovery")
        assert operator.types(NAME).count("AutoscalerUnhealthy") == 1


def reported(operator: Operator) -> tuple[str, str]:
    condition = operator.condition(NAME, "Autoscaling")
    return condition.get("status", ""), condition.get("reason", "")


def horizontal(operator: Operator) -> ObjectKey:
    return operator.key("HorizontalPodAutoscaler", f"keda-hpa-{NAME}", "autoscaling/v2")


def made_by_keda(operator: Operator, http: httpx.Client) -> None:
    """Do what KEDA does: make a HorizontalPodAutoscaler with the labels of the ScaledObject."""
    scaled = operator.cluster.get(operator.key("ScaledObject", NAME, "keda.sh/v1alpha1")) or {}
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": NAME, "uid": scaled["metadata"]["uid"]}
    external = {"metric": {"name": "s0-postgresql"}, "target": {"type": "AverageValue", "averageValue": "10"}}
    operator.put(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {
                "name": f"keda-hpa-{NAME}",
                "namespace": operator.namespace,
                "labels": scaled["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
                "maxReplicas": 8,
                "metrics": [{"type": "External", "external": external}],
            },
        }
    )
    failed = ("ScalingActive", "False", "FailedGetExternalMetric")
    write_status(http, operator.namespace, "horizontalpodautoscalers", f"keda-hpa-{NAME}", failed)


# --- the real controller


@pytest.fixture(scope="module")
def autoscaling_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server whose controller manager runs the controller of HorizontalPodAutoscalers; no metrics-server."""
    controllers = (*envtest.CONTROLLERS, "horizontalpodautoscaling")
    with running_real(tmp_path_factory.mktemp("autoscaling"), controllers=controllers) as server:
        yield server


def test_the_real_controllers_failure_without_metrics_is_reported_once(autoscaling_server: ApiServer) -> None:
    namespace = "autoscaled"
    with autoscaling_server.http() as http:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        http.post("/api/v1/namespaces", json=body).raise_for_status()
    with at_work(autoscaling_server, namespace) as operator:
        operator.put(lgp_manifest(namespace, NAME, serverSpec={"queueEnabled": False}, autoscaling=BOUNDS, **QUIET))
        eventually(lambda: operator.available(NAME), "the Agent Server is available")
        eventually(
            lambda: reported(operator) == ("False", "FailedGetResourceMetric"), "the condition reports the failure", 90
        )
        message = operator.condition(NAME, "Autoscaling")["message"]
        assert "could not find the requested resource (get pods.metrics.k8s.io)" in message
        assert operator.available(NAME), "the Agent Server is available"

        operator.quiet(NAME, 35)  # the controller checks every 15 seconds
        assert operator.types(NAME).count("AutoscalerUnhealthy") == 1
