"""What the observer remembers of ReplicaSets and pods that carry no label of ours.

Workloads that were adopted keep their pods until their template changes, and these pods have the labels that another
operator gave them. They are found by their controllers' uids instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from engine.operator.observation.objects import ObservedPod, ObservedReplicaSet, observe_pod, observe_replica_set
from engine.operator.observation.observed_state import ObservedState
from engine.ports import Manifest


class UnlabelledObjects:
    """ReplicaSets and pods without a label of ours, by namespace and uid of their controller."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, str], dict[str, ObservedPod | ObservedReplicaSet]] = {}
        """Namespace and uid of a controller → its objects, by uid."""
        self._controllers: dict[str, str] = {}
        """uid of a ReplicaSet → uid of its controller."""

    def on_change(self, kind: str, namespace: str, manifest: Manifest, *, exists: bool) -> str:
        """Take in a pod or ReplicaSet; return the uid of the workload that it belongs to."""
        found = observe_pod(manifest) if kind == "Pod" else observe_replica_set(manifest)
        siblings = self._children.setdefault((namespace, found.owner), {})
        if exists:
            siblings[found.uid] = found
        else:
            siblings.pop(found.uid, None)
        if isinstance(found, ObservedReplicaSet):
            self._controllers[found.uid] = found.owner
        return self._controllers.get(found.owner, found.owner)

    def added_to(self, namespace: str, observed: ObservedState) -> ObservedState:
        """Return `observed` together with the unlabelled objects of its workloads."""
        if not self._children:
            return observed
        workloads = [workload.uid for workload in observed.workloads.values()]
        replica_sets = dict(observed.replica_sets)
        for child in self._of(namespace, workloads):
            if isinstance(child, ObservedReplicaSet):
                replica_sets[child.uid] = child
        pods = dict(observed.pods)
        for child in self._of(namespace, (*workloads, *replica_sets)):
            if isinstance(child, ObservedPod):
                pods[child.uid] = child
        return replace(observed, replica_sets=replica_sets, pods=pods)

    def _of(self, namespace: str, controllers: Iterable[str]) -> Iterator[ObservedPod | ObservedReplicaSet]:
        for uid in controllers:
            yield from self._children.get((namespace, uid), {}).values()
