"""What kube-controller-manager does for workloads, small and inside the API server's process.

`run(registry)` is one task for all of them. A controller is level-based: it is told that an object, or something
that the object owns, changed; it looks at what exists and makes one step towards what should. It never sleeps:
it says after how many seconds it wants to look again.

    manager       the loop: who must look at what, when; the index of who is controlled by whom
    deployments   ReplicaSets per pod template, rollouts (arithmetic in `rolling`), status and conditions
    replicasets   Pods
    statefulsets  ordered Pods and their PersistentVolumeClaims, revisions in ControllerRevisions
    claims        PersistentVolumeClaims become Bound: there is nothing to bind to
    accounts      every namespace has a ServiceAccount `default`

All writes go through the registry like those of any client: defaulted, validated, owned by a field manager.
Not here: ReplicaFailure conditions, Events, rollback by the server, minReadySeconds of StatefulSets.
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
