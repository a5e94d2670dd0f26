"""The operator's acts, as values: each names one idempotent step against the outside world.

`decide` chooses an act; `perform` carries the act out.
"""

from __future__ import annotations

from engine.runtime.machine import Act


class ApplyObjects(Act):
    """Apply these objects (by `str(key)`), in this order."""

    keys: tuple[str, ...]


class PruneObjects(Act):
    """Delete these objects, which the LGP no longer asks for."""

    keys: tuple[str, ...]


class PruneEverything(Act):
    """Delete whatever is left of an LGP that is gone: volume claims, its route, what Kubernetes did not collect."""


class JudgeAutoscalers(Act):
    """Note that these autoscalers have not worked for too long."""

    keys: tuple[str, ...]


class ApplyStatus(Act):
    """Write the LGP's status."""

    digest: str
