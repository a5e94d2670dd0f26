"""The ServiceAccount controller: creates the ServiceAccount `default` in every namespace."""

from __future__ import annotations

from sandbox.kubernetes.controllers.manager import Manager
from sandbox.kubernetes.controllers.pods import is_deleting
from sandbox.kubernetes.store import Stored

FIELD_MANAGER = "service-account-controller"


class AccountController:
    resource = "namespaces"

    def __init__(self, manager: Manager) -> None:
        self._registry = manager.registry

    def reconcile(self, stored: Stored) -> float | None:
        if not is_deleting(stored.object) and not self._registry.store.get("serviceaccounts", stored.name, "default"):
            account = {"metadata": {"name": "default", "namespace": stored.name}}
            self._registry.create("serviceaccounts", account, manager=FIELD_MANAGER)
        return None
