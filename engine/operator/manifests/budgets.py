"""A PodDisruptionBudget for each Agent Server workload that has at least two replicas: API servers, queue workers.

At most one pod of a workload is evicted at a time, so a node can always be drained: one pod moves, then the next. A pod
that is not ready may be evicted at any time, for it serves no request; otherwise a crashing revision would hold up
every drain. A workload of one replica has no budget: a budget could only forbid the eviction of its pod, or do nothing.

When an autoscaler decides on the replicas, its minimum counts.

Kubernetes evicts no pod that two budgets select. So when another budget selects the same pods, ours is not made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.names import BUDGET
from engine.operator import scaling
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp
from engine.operator.manifests import overlay
from engine.ports import JsonObject, Manifest, ObjectKey

FEWEST_REPLICAS = 2
"""Replicas from which a workload has a budget."""


def objects(
    lgp: Lgp, config: OperatorConfig, workloads: Sequence[Manifest], scalers: Sequence[Manifest]
) -> list[Manifest]:
    """Return the budgets of the Deployments `workloads`; `scalers` are the autoscalers of these Deployments."""
    if not config.pod_disruption_budgets:
        return []
    return [_budget(lgp, one) for one in workloads if _fewest(one, scalers) >= FEWEST_REPLICAS]


def is_budget(key: ObjectKey) -> bool:
    """Whether an object is a PodDisruptionBudget."""
    return (key.api_version, key.kind) == BUDGET


def other_budgets(key: ObjectKey, selectors: Mapping[str, JsonObject | None], pods: Mapping[str, str]) -> list[str]:
    """Return the names of the budgets other than `key` that select pods with the labels `pods`.

    `selectors` are the selectors of all budgets of the namespace, by name.
    """
    return sorted(name for name, selector in selectors.items() if name != key.name and covers(selector, pods))


def covers(selector: JsonObject | None, labels: Mapping[str, str]) -> bool:
    """Whether the selector of a budget selects pods with these `labels`. None selects no pod, `{}` every pod."""
    if selector is None:
        return False
    same = all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())
    return same and all(_holds(one, labels) for one in selector.get("matchExpressions") or [])


def _holds(expression: JsonObject, labels: Mapping[str, str]) -> bool:
    name, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(name) in values
        case "NotIn":
            return labels.get(name) not in values
        case "Exists":
            return name in labels
        case _:  # DoesNotExist
            return name not in labels


def _fewest(workload: Manifest, scalers: Sequence[Manifest]) -> int:
    asked: int | None = workload["spec"].get("replicas")
    return scaling.first_replicas(workload["metadata"]["name"], scalers) if asked is None else asked


def _budget(lgp: Lgp, workload: Manifest) -> Manifest:
    return {
        "apiVersion": BUDGET[0],
        "kind": BUDGET[1],
        "metadata": overlay.metadata(lgp, workload["metadata"]["name"]),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": dict(workload["spec"]["selector"]["matchLabels"])},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
