"""Which fields of a live workload are ours, and how the fields of other managers become ours. Pure."""

from __future__ import annotations

from engine import names
from engine.kubernetes import managed_fields
from engine.kubernetes.managed_fields import Fields
from engine.operator.manifests.adopted import FIXED
from engine.ports import Manifest


def pods_are_ours(live: Manifest) -> bool:
    """Return whether our operator applied the pod template of a live workload."""
    return managed_fields.applies(live, names.OPERATOR_MANAGER, "spec", "template")


def owning_all_fields(live: Manifest) -> list[Fields] | None:
    """Return the `managedFields` of a live workload after the fields of its spec that others set are ours.

    Immutable fields stay with their managers, and so does `replicas`, which an autoscaler may set. None when other
    managers set no other field.
    """
    return managed_fields.taken_over(live, names.OPERATOR_MANAGER, ("replicas", *FIXED.get(live["kind"], ())))
