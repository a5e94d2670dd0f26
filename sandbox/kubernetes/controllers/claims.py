"""Sets PersistentVolumeClaims to Bound at once: the sandbox has no PersistentVolumes, and its Postgres does not run."""

from __future__ import annotations

from sandbox.kubernetes.controllers.manager import Manager
from sandbox.kubernetes.store import Stored

FIELD_MANAGER = "persistent-volume-binder"


class ClaimController:
    resource = "persistentvolumeclaims"

    def __init__(self, manager: Manager) -> None:
        self._registry = manager.registry

    def reconcile(self, stored: Stored) -> float | None:
        if (stored.object.get("status") or {}).get("phase") == "Bound":
            return None
        claim = stored.copy()
        claim["status"] = {
            "phase": "Bound",
            "accessModes": claim["spec"]["accessModes"],
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
        }
        self._registry.update(self.resource, claim, subresource="status", manager=FIELD_MANAGER)
        return None
