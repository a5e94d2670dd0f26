"""The autoscalers of an Agent Server, with the platform's documented targets.

Targets: 75 % CPU, 75 % memory, 10 runs per queue worker; scale-down after 30 minutes. The operator makes ScaledObjects
where KEDA is installed, unless the LGP says `autoscalerType: HPA`; else HorizontalPodAutoscalers, which cannot count
runs. The number of queue workers follows pending and running runs: counting pending runs alone would remove workers
while all of them are busy. The target is one worker for as many runs as it executes at the same time, 10 unless the LGP
says otherwise.

KEDA reads the connection from the environment of the queue workers' container, so no credential is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp
from engine.operator.manifests import overlay
from engine.operator.manifests.environment import (
    JOBS_PER_WORKER,
    PASSWORD,
    POSTGRES_DB,
    POSTGRES_PORT,
    POSTGRES_USER,
    custom_postgres,
    makes_postgres,
    service_host,
)
from engine.operator.manifests.naming import object_names
from engine.operator.manifests.server import main_container
from engine.ports import JsonObject, Manifest

UTILIZATION = 75
"""Percent of the request, for CPU and for memory."""
SCALE_DOWN_SECONDS = 1800
"""Seconds that a lower load lasts before replicas are removed."""
MOST_REPLICAS = 10
"""Default maximum, when the LGP names none."""
RUNS_QUERY = "SELECT COUNT(*) FROM run WHERE status IN ('pending', 'running')"


def objects(lgp: Lgp, config: OperatorConfig, queue: Manifest | None) -> list[Manifest]:
    """Return the autoscalers of the API servers and of the queue workers (Deployment `queue`), or nothing."""
    asked = lgp.spec.autoscaling
    if not asked.enabled:
        return []
    names = object_names(lgp, config)
    least = 1 if asked.min_replicas is None else asked.min_replicas
    most = max(least, MOST_REPLICAS) if asked.max_replicas is None else asked.max_replicas
    keda = config.keda_enabled and asked.autoscaler_type != "HPA"
    make = _scaled_object if keda else _horizontal_pod_autoscaler
    # Without pods there is no CPU or memory usage to scale up by, so API servers never scale to zero.
    made = [make(lgp, names.server, max(1, least), most)]
    if queue is not None:
        queue_least = least if asked.queue_min_replicas is None else asked.queue_min_replicas
        queue_most = max(queue_least, most) if asked.queue_max_replicas is None else asked.queue_max_replicas
        runs = _runs(lgp, config) if keda else []
        queue_least = queue_least if runs else max(1, queue_least)
        made.append(make(lgp, names.queue, queue_least, queue_most, runs, main_container(queue)["name"]))
    return made


def _horizontal_pod_autoscaler(
    lgp: Lgp, target: str, least: int, most: int, runs: Sequence[JsonObject] = (), container: str = ""
) -> Manifest:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": overlay.metadata(lgp, target),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": least,
            "maxReplicas": max(least, most),
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": resource,
                        "target": {"type": "Utilization", "averageUtilization": UTILIZATION},
                    },
                }
                for resource in ("cpu", "memory")
            ],
            "behavior": _behavior(),
        },
    }


def _scaled_object(
    lgp: Lgp, target: str, least: int, most: int, runs: Sequence[JsonObject] = (), container: str = ""
) -> Manifest:
    usage = [
        {"type": resource, "metricType": "Utilization", "metadata": {"value": str(UTILIZATION)}}
        for resource in ("cpu", "memory")
    ]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": overlay.metadata(lgp, target),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": target,
                **({"envSourceContainerName": container} if container else {}),
            },
            "minReplicaCount": least,
            "maxReplicaCount": max(1, least, most),
            "cooldownPeriod": SCALE_DOWN_SECONDS,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
            "triggers": [*runs, *usage],
        },
    }


def _behavior() -> JsonObject:
    return {"scaleDown": {"stabilizationWindowSeconds": SCALE_DOWN_SECONDS}}


def _runs(lgp: Lgp, config: OperatorConfig) -> list[JsonObject]:
    """Return the trigger that counts runs, nothing when no database is known."""
    if makes_postgres(lgp):
        connection = {
            "host": service_host(object_names(lgp, config).database, lgp, config),
            "port": str(POSTGRES_PORT),
            "userName": POSTGRES_USER,
            "passwordFromEnv": PASSWORD,
            "dbName": POSTGRES_DB,
            "sslmode": "disable",
        }
    elif custom_postgres(lgp):
        connection = {"connectionFromEnv": "POSTGRES_URI_CUSTOM"}
    elif any(var.name == "POSTGRES_URI" for var in lgp.spec.server_spec.env):
        connection = {"connectionFromEnv": "POSTGRES_URI"}
    else:
        return []
    target = max(1, lgp.spec.server_spec.num_jobs_per_worker or JOBS_PER_WORKER)
    return [
        {"type": "postgresql", "metadata": {**connection, "query": RUNS_QUERY, "targetQueryValue": str(target)}},
    ]
