"""The ReplicaSet controller: creates and deletes Pods up to spec.replicas, and counts them in the status."""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes.controllers import pods
from sandbox.kubernetes.controllers.manager import Manager, adopt
from sandbox.kubernetes.store import Object, Stored

FIELD_MANAGER = "replicaset-controller"


class ReplicaSetController:
    resource = "replicasets.apps"

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._registry = manager.registry

    def reconcile(self, stored: Stored) -> float | None:
        replica_set = stored.copy()
        if not pods.is_deleting(replica_set):
            adopt(self._manager, replica_set, "pods", FIELD_MANAGER)
            self._scale(replica_set)
        return self._report(replica_set)

    def _active(self, replica_set: Object) -> list[Object]:
        return [pod.object for pod in self._manager.controlled(replica_set, "pods") if pods.is_active(pod.object)]

    def _scale(self, replica_set: Object) -> None:
        metadata, spec = replica_set["metadata"], replica_set["spec"]
        active = self._active(replica_set)
        for _ in range(spec["replicas"] - len(active)):
            pod = pods.from_template(replica_set, spec["template"], generateName=f"{metadata['name']}-")
            self._registry.create("pods", pod, manager=FIELD_MANAGER)
        surplus = len(active) - spec["replicas"]
        for pod in sorted(active, key=_deletion_order)[: max(0, surplus)]:
            self._registry.delete("pods", metadata["namespace"], pod["metadata"]["name"])

    def _report(self, replica_set: Object) -> float | None:
        """Write the status if it changed; return the seconds until the next ready Pod becomes available."""
        spec, now = replica_set["spec"], pods.clock()
        active = self._active(replica_set)
        waits = [pods.seconds_until_available(pod, spec.get("minReadySeconds", 0), now) for pod in active]
        labels = spec["template"].get("metadata", {}).get("labels") or {}
        counted: dict[str, Any] = {
            "replicas": len(active),
            "fullyLabeledReplicas": sum(
                labels.items() <= (pod["metadata"].get("labels") or {}).items() for pod in active
            ),
            "readyReplicas": sum(wait is not None for wait in waits),
            "availableReplicas": sum(wait == 0 for wait in waits),
            "observedGeneration": replica_set["metadata"]["generation"],
        }
        old = replica_set.get("status") or {}
        status = {key: value for key, value in counted.items() if value or key == "replicas"}
        if conditions := old.get("conditions"):
            status["conditions"] = conditions
        if status != old:
            replica_set["status"] = status
            self._registry.update(self.resource, replica_set, subresource="status", manager=FIELD_MANAGER)
        return min((wait for wait in waits if wait), default=None)


def _deletion_order(pod: Object) -> tuple[Any, ...]:
    """Return the sort key by which Pods are deleted: unassigned, pending and unready Pods come first."""
    ready = pods.condition(pod, "Ready") or {}
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return (
        bool(pod["spec"].get("nodeName")),
        {"Pending": 0, "Unknown": 1}.get(pod.get("status", {}).get("phase", "Pending"), 2),
        pods.is_ready(pod),
        -sum(status.get("restartCount", 0) for status in statuses),
        # Among ready Pods, the one that became ready last comes first, then the youngest.
        _descending(ready.get("lastTransitionTime", "")),
        _descending(pod["metadata"]["creationTimestamp"]),
        pod["metadata"]["name"],
    )


def _descending(time: str) -> float:
    moment = pods.parse_time(time)
    return -moment.timestamp() if moment else 0
