"""The acts of the operator, as values: each one names an idempotent step against the cluster.

`decide` chooses an act; `perform` carries the act out.
"""

from __future__ import annotations

from engine.runtime.machine import Act


class ApplyObjects(Act):
    """Apply these objects, in this order."""

    keys: tuple[str, ...]
    """`str(key)` of each object."""


class PruneObjects(Act):
    """Delete these objects, which the LGP no longer asks for."""

    keys: tuple[str, ...]
    """`str(key)` of each object."""


class PruneEverything(Act):
    """Delete the remaining objects of an LGP that does not exist: PersistentVolumeClaims, the path on the shared
    Ingress, and every object that Kubernetes does not collect.
    """


class MarkAutoscalersUnhealthy(Act):
    """Record that these autoscalers have not worked for longer than the grace time. Writes nothing to the cluster."""

    keys: tuple[str, ...]
    """`str(key)` of each autoscaler."""


class ApplyStatus(Act):
    """Write the status of the LGP."""

    digest: str
    """Digest of the status to write."""
