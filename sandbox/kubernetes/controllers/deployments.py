"""The Deployment controller: one ReplicaSet per pod template, and rollouts within maxSurge and maxUnavailable.

A reconciliation has these steps: adopt orphaned ReplicaSets, find or create the ReplicaSet of the current template (not
while paused), scale the ReplicaSets, delete old ones, write the status. The revision of a Deployment is that of its
newest ReplicaSet, in the annotation `deployment.kubernetes.io/revision` of both. When an earlier template returns, its
ReplicaSet gets a new revision; `kubectl rollout undo` relies on this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from sandbox.kubernetes.controllers import conditions, pods, rolling
from sandbox.kubernetes.controllers.manager import Manager, adopt, controller_reference
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.store import Object, Stored

FIELD_MANAGER = "deployment-controller"
HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
}


@dataclass
class Rollout:
    """A Deployment and its ReplicaSets during one reconciliation."""

    deployment: Object
    new: Object | None
    """The ReplicaSet of the current template."""
    old: list[Object]
    """The other ReplicaSets, oldest first."""
    limits: rolling.Limits

    @property
    def all(self) -> list[Object]:
        return [*self.old, *([self.new] if self.new else [])]


class DeploymentController:
    resource = "deployments.apps"

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._registry = manager.registry

    def reconcile(self, stored: Stored) -> float | None:
        deployment = stored.copy()
        if pods.is_deleting(deployment):
            return self._report(self._observe(deployment))
        adopt(self._manager, deployment, "replicasets.apps", FIELD_MANAGER)
        rollout = self._observe(deployment)
        paused = deployment["spec"].get("paused", False)
        if paused or _was_scaled(rollout):
            self._scale_in_proportion(rollout)
        elif deployment["spec"]["strategy"]["type"] == "Recreate":
            self._recreate(rollout)
        else:
            self._roll(rollout)
        self._delete_history(rollout)
        return self._report(rollout)

    # reading

    def _observe(self, deployment: Object) -> Rollout:
        template = deployment["spec"]["template"]
        found = [stored.copy() for stored in self._manager.controlled(deployment, "replicasets.apps")]
        found.sort(key=_age)
        new = next((item for item in found if _same_template(item, template)), None)
        old = [item for item in found if item is not new]
        update = deployment["spec"]["strategy"].get("rollingUpdate") or {}
        limits = rolling.limits(
            deployment["spec"]["replicas"], update.get("maxSurge", 0), update.get("maxUnavailable", 0)
        )
        if deployment["spec"]["strategy"]["type"] == "Recreate":
            limits = rolling.Limits(replicas=limits.replicas, surge=0, unavailable=0)
        return Rollout(deployment, new, old, limits)

    def _ensure_new(self, rollout: Rollout) -> Object:
        """Return the ReplicaSet of the current template, with its revision; create it if there is none."""
        deployment = rollout.deployment
        revision = str(max([_revision(item) for item in rollout.old], default=0) + 1)
        if rollout.new is None:
            rollout.new = self._make_new(rollout, revision)
            conditions.set_condition(
                deployment,
                "Progressing",
                "True",
                "NewReplicaSetCreated",
                f'Created new replica set "{rollout.new["metadata"]["name"]}"',
            )
        elif _revision(rollout.new) < int(revision):
            annotations = rollout.new["metadata"].setdefault("annotations", {})
            if REVISION in annotations:
                history = [*annotations.get(HISTORY, "").split(","), annotations[REVISION]]
                annotations[HISTORY] = ",".join(filter(None, history))
            annotations[REVISION] = revision
            rollout.new = self._update(rollout.new)
            conditions.set_condition(
                deployment,
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                f'Found new replica set "{rollout.new["metadata"]["name"]}"',
            )
        annotations = deployment["metadata"].setdefault("annotations", {})
        annotations[REVISION] = rollout.new["metadata"]["annotations"][REVISION]
        return rollout.new

    def _make_new(self, rollout: Rollout, revision: str) -> Object:
        deployment, spec = rollout.deployment, rollout.deployment["spec"]
        status = deployment.setdefault("status", {})
        suffix = pods.template_hash(spec["template"], status.get("collisionCount", 0))
        template: Object = orjson.loads(orjson.dumps(spec["template"]))
        template.setdefault("metadata", {}).setdefault("labels", {})[HASH] = suffix
        selector: Object = orjson.loads(orjson.dumps(spec["selector"]))
        selector.setdefault("matchLabels", {})[HASH] = suffix
        empty = rolling.Replicas(name="", desired=0, available=0, max_total=0)
        size = rolling.grow(empty, [_counts(item) for item in rollout.old], rollout.limits)
        body = {
            "metadata": {
                "name": f"{deployment['metadata']['name']}-{suffix}",
                "namespace": deployment["metadata"]["namespace"],
                "labels": dict(template["metadata"]["labels"]),
                "annotations": {**_copied_annotations(deployment), REVISION: revision, **_scale_annotations(rollout)},
                "ownerReferences": [controller_reference(deployment)],
            },
            "spec": {
                "replicas": size,
                "selector": selector,
                "template": template,
                **({"minReadySeconds": spec["minReadySeconds"]} if spec.get("minReadySeconds") else {}),
            },
        }
        try:
            return self._registry.create("replicasets.apps", body, manager=FIELD_MANAGER)
        except ApiError as error:
            if error.code == 409:  # the name is taken: the next reconciliation uses another hash
                status["collisionCount"] = status.get("collisionCount", 0) + 1
                self._registry.update(self.resource, deployment, subresource="status", manager=FIELD_MANAGER)
            raise

    # scaling

    def _roll(self, rollout: Rollout) -> None:
        new = self._ensure_new(rollout)
        old = [_counts(item) for item in rollout.old]
        rollout.new = self._resize(rollout, new, rolling.grow(_counts(new), old, rollout.limits))
        if rollout.new is new:  # the new ReplicaSet has its largest size for now
            self._resize_old(rollout, rolling.shrink(_counts(new), old, rollout.limits))

    def _recreate(self, rollout: Rollout) -> None:
        self._resize_old(rollout, {item["metadata"]["name"]: 0 for item in rollout.old})
        for item in rollout.old:
            if any(not pods.is_over(pod.object) for pod in self._manager.controlled(item, "pods")):
                return
        new = self._ensure_new(rollout)
        rollout.new = self._resize(rollout, new, rollout.limits.replicas)

    def _scale_in_proportion(self, rollout: Rollout) -> None:
        active = [item for item in rollout.all if item["spec"]["replicas"]]
        if rollout.new and not rollout.deployment["spec"].get("paused"):
            self._ensure_new(rollout)
        if len(active) <= 1:
            only = (active or ([rollout.new] if rollout.new else rollout.old[-1:]))[:1]
            sizes = {item["metadata"]["name"]: rollout.limits.replicas for item in only}
        elif rollout.new and _is_saturated(rollout.new, rollout):
            sizes = {item["metadata"]["name"]: 0 for item in rollout.old}
        else:
            sizes = rolling.spread([_counts(item) for item in active], rollout.limits)
        self._resize_old(rollout, sizes)
        if rollout.new and (size := sizes.get(rollout.new["metadata"]["name"])) is not None:
            rollout.new = self._resize(rollout, rollout.new, size)

    def _resize_old(self, rollout: Rollout, sizes: dict[str, int]) -> None:
        rollout.old = [
            self._resize(rollout, item, sizes.get(item["metadata"]["name"], item["spec"]["replicas"]))
            for item in rollout.old
        ]

    def _resize(self, rollout: Rollout, item: Object, size: int) -> Object:
        """Scale a ReplicaSet and return it. Annotations are updated too, except on an empty ReplicaSet."""
        annotated = not size or _is_annotated(item, rollout)
        if size == item["spec"]["replicas"] and annotated:
            return item
        item["spec"]["replicas"] = size
        item["metadata"].setdefault("annotations", {}).update(_scale_annotations(rollout))
        return self._update(item)

    def _update(self, replica_set: Object) -> Object:
        return self._registry.update("replicasets.apps", replica_set, manager=FIELD_MANAGER)

    def _delete_history(self, rollout: Rollout) -> None:
        """Delete the oldest empty ReplicaSets beyond revisionHistoryLimit once the rollout is complete."""
        if not rollout.new or not _is_complete(rollout.deployment["spec"], _count_status(rollout)):
            return
        empty = [
            item
            for item in sorted(rollout.old, key=_revision)
            if not item["spec"]["replicas"]
            and not (item.get("status") or {}).get("replicas")
            and not pods.is_deleting(item)
        ]
        surplus = len(rollout.old) - int(rollout.deployment["spec"].get("revisionHistoryLimit", 10))
        for item in empty[: max(0, surplus)]:
            metadata = item["metadata"]
            self._registry.delete("replicasets.apps", metadata["namespace"], metadata["name"])

    # status

    def _report(self, rollout: Rollout) -> float | None:
        """Write the status if it changed; return the seconds until the progress deadline."""
        deployment = rollout.deployment
        stored = self._registry.found(
            self.resource, deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        )
        before = stored.object.get("status") or {}
        status = {**_count_status(rollout), "observedGeneration": deployment["metadata"]["generation"]}
        status = {key: value for key, value in status.items() if value}
        if collisions := before.get("collisionCount"):
            status["collisionCount"] = collisions
        status["conditions"] = (deployment.get("status") or {}).get("conditions") or []
        deployment["status"] = status
        self._set_available(rollout)
        again = self._set_progressing(rollout, before)
        if not status["conditions"]:
            del status["conditions"]
        annotations = deployment["metadata"].get("annotations")
        if status != before or annotations != stored.object["metadata"].get("annotations"):
            self._registry.update(self.resource, deployment, subresource="status", manager=FIELD_MANAGER)
        return again

    def _set_available(self, rollout: Rollout) -> None:
        available = rollout.deployment["status"].get("availableReplicas", 0) >= rollout.limits.at_least
        conditions.set_condition(
            rollout.deployment,
            "Available",
            "True" if available else "False",
            "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            "Deployment has minimum availability." if available else "Deployment does not have minimum availability.",
        )

    def _set_progressing(self, rollout: Rollout, before: Object) -> float | None:
        """Set the condition Progressing; return the seconds until the progress deadline, None without one."""
        deployment, spec, status = rollout.deployment, rollout.deployment["spec"], rollout.deployment["status"]
        deadline = spec.get("progressDeadlineSeconds")
        if deadline is None or deadline == 2**31 - 1:
            conditions.remove_condition(deployment, "Progressing")
            return None
        known = pods.condition(deployment, "Progressing")
        reason = known["reason"] if known else ""
        if spec.get("paused"):
            if reason not in ("ProgressDeadlineExceeded", "DeploymentPaused"):
                conditions.set_condition(
                    deployment, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"
                )
            return None
        if reason == "DeploymentPaused":
            conditions.set_condition(deployment, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed")
        name = rollout.new["metadata"]["name"] if rollout.new else deployment["metadata"]["name"]
        what = f'ReplicaSet "{name}"' if rollout.new else f'Deployment "{name}"'
        done = status.get("replicas", 0) == status.get("updatedReplicas", 0) and reason == "NewReplicaSetAvailable"
        if done:
            return None
        if _is_complete(spec, status):
            words = f"{what} has successfully progressed."
            conditions.set_condition(deployment, "Progressing", "True", "NewReplicaSetAvailable", words)
            return None
        if _has_progressed(before, status):
            words = f"{what} is progressing."
            conditions.set_condition(deployment, "Progressing", "True", "ReplicaSetUpdated", words, touch=True)
        known = pods.condition(deployment, "Progressing")
        if known is None or known["reason"] == "ProgressDeadlineExceeded":
            return None
        since = pods.parse_time(known.get("lastUpdateTime")) or pods.clock()
        left = (since + timedelta(seconds=deadline) - pods.clock()).total_seconds()
        if left > 0:
            return left
        words = f"{what} has timed out progressing."
        conditions.set_condition(deployment, "Progressing", "False", "ProgressDeadlineExceeded", words)
        return None


def _age(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["creationTimestamp"], obj["metadata"]["name"]


def _revision(replica_set: Object) -> int:
    text = (replica_set["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def _counts(item: Object) -> rolling.Replicas:
    annotations = item["metadata"].get("annotations") or {}
    return rolling.Replicas(
        name=item["metadata"]["name"],
        desired=item["spec"]["replicas"],
        available=(item.get("status") or {}).get("availableReplicas", 0),
        max_total=int(annotations.get(MAXIMUM, 0)),
    )


def _same_template(replica_set: Object, template: Object) -> bool:
    own: Object = replica_set["spec"]["template"]
    metadata = own.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH}
    current = template.get("metadata") or {}
    return (
        own["spec"] == template["spec"]
        and labels == (current.get("labels") or {})
        and (metadata.get("annotations") or {}) == (current.get("annotations") or {})
    )


def _copied_annotations(deployment: Object) -> dict[str, str]:
    annotations = deployment["metadata"].get("annotations") or {}
    return {key: value for key, value in annotations.items() if key not in NOT_COPIED}


def _scale_annotations(rollout: Rollout) -> dict[str, str]:
    return {DESIRED: str(rollout.limits.replicas), MAXIMUM: str(rollout.limits.at_most)}


def _is_annotated(item: Object, rollout: Rollout) -> bool:
    return _scale_annotations(rollout).items() <= (item["metadata"].get("annotations") or {}).items()


def _was_scaled(rollout: Rollout) -> bool:
    """Whether spec.replicas changed since the ReplicaSets were last scaled."""
    active = [item for item in rollout.all if item["spec"]["replicas"]]
    desired = [(item["metadata"].get("annotations") or {}).get(DESIRED) for item in active]
    return any(text is not None and text != str(rollout.limits.replicas) for text in desired)


def _is_saturated(item: Object, rollout: Rollout) -> bool:
    counts = _counts(item)
    return counts.desired == counts.available == rollout.limits.replicas


def _total(items: Sequence[Object], field: str) -> int:
    return sum((item.get("status") or {}).get(field, 0) for item in items)


def _count_status(rollout: Rollout) -> dict[str, Any]:
    available = _total(rollout.all, "availableReplicas")
    desired = sum(item["spec"]["replicas"] for item in rollout.all)
    return {
        "replicas": _total(rollout.all, "replicas"),
        "updatedReplicas": _total([rollout.new] if rollout.new else [], "replicas"),
        "readyReplicas": _total(rollout.all, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, desired - available),
    }


def _is_complete(spec: Object, status: Object) -> bool:
    counted = [status.get(field, 0) for field in ("updatedReplicas", "replicas", "availableReplicas")]
    return counted == [spec["replicas"]] * 3


def _has_progressed(before: Object, status: Object) -> bool:
    def more(field: str) -> bool:
        return bool(status.get(field, 0) > before.get(field, 0))

    def old_replicas(counted: Object) -> int:
        return int(counted.get("replicas", 0)) - int(counted.get("updatedReplicas", 0))

    return (
        more("updatedReplicas")
        or more("readyReplicas")
        or more("availableReplicas")
        or old_replicas(status) < old_replicas(before)
    )
