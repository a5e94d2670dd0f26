"""The workload controllers of kube-controller-manager, reduced, inside the API server's process.

`run(registry)` runs all of them as one task. A controller is level-based: when an object or one of its dependents
changes, `reconcile` compares the object with the objects that exist and makes one step towards its spec. A controller
never sleeps: it returns the seconds after which it wants to reconcile again.

    manager       the loop: a queue of objects to reconcile, and an index of dependents by controller
    deployments   ReplicaSets per pod template, rollouts (arithmetic in `rolling`), status and conditions
    replicasets   Pods
    statefulsets  ordered Pods and their PersistentVolumeClaims, revisions in ControllerRevisions
    claims        sets PersistentVolumeClaims to Bound, without a volume
    accounts      creates the ServiceAccount `default` in every namespace

All writes go through the registry like those of any client: defaults, validation, a field manager. Missing:
ReplicaFailure conditions, Events, rollback by the server, minReadySeconds of StatefulSets.
"""

from __future__ import annotations

from sandbox.kubernetes.controllers.accounts import AccountController
from sandbox.kubernetes.controllers.claims import ClaimController
from sandbox.kubernetes.controllers.deployments import DeploymentController
from sandbox.kubernetes.controllers.manager import Manager
from sandbox.kubernetes.controllers.replicasets import ReplicaSetController
from sandbox.kubernetes.controllers.statefulsets import StatefulSetController
from sandbox.kubernetes.registry import Registry

__all__ = ["run"]


async def run(registry: Registry) -> None:
    """Run every controller until cancelled."""
    manager = Manager(registry)
    for controller in (
        DeploymentController(manager),
        ReplicaSetController(manager),
        StatefulSetController(manager),
        ClaimController(manager),
        AccountController(manager),
    ):
        manager.add(controller)
    await manager.run()
