"""Which kinds the operator watches, and which it ignores.

Watched in every namespace of the data plane:

| kind | which objects | why |
|---|---|---|
| LGP | all, or those of our listener | they say what to make |
| Deployment, StatefulSet, Service | with LGP_LABEL | drift; status of workloads |
| ReplicaSet, Pod | with LGP_LABEL | why a workload does not come up |
| Secret | with MANAGED_BY_LABEL | that a generated password still exists |
| Ingress | all; only with a shared Ingress in the LGPs' namespaces | drift of paths |
| PodDisruptionBudget | all; only where budgets are made | a pod of two budgets cannot be evicted |

Watched in the namespace of a shared Ingress, when `ingress.namespace` is set: Ingresses, and the Services that stand
for those beside the LGPs (EXTERNAL_SERVICES).

Watched from when an LGP has such an object (`extra_watches`): HTTPRoute, VirtualService, HorizontalPodAutoscaler,
ScaledObject, ServiceAccount, SecretProviderClass; a cluster need not serve these kinds, and a role need not allow them.
ReplicaSets and Pods without LGP_LABEL are watched while an adopted workload keeps its pods as they are.

Every other kind is ignored, in particular: PersistentVolumeClaim (the operator deletes those of a removed LGP without
watching them), ConfigMap (the operator makes none), EndpointSlice, ControllerRevision, Event, Node.

To ignore another kind, take it out of WATCHED_KINDS, or out of the function below that returns its watch. To watch one
more, add it there, and add the verb `watch` for it to `engine/kubernetes/permissions.py` and to the chart's Role.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine import names
from engine.operator.config import OperatorConfig
from engine.operator.observation.autoscalers import HORIZONTAL, HORIZONTAL_API_VERSION, SCALED_OBJECT
from engine.operator.plan import INGRESS_API_VERSION, INGRESS_PATH_KIND, Plan
from engine.operator.scaling import KIND_NOT_SERVED
from engine.operator.state import OperatorState
from engine.runtime.observation import LGPS, SECRETS, Watch

WORKLOAD_KINDS = ("Deployment", "StatefulSet")
WATCHED_KINDS: tuple[tuple[str, str], ...] = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "Service"),
    ("v1", "Pod"),
)
"""apiVersion and kind of the objects of LGPs that are watched at all times, by their label."""

INGRESSES = Watch(api_version=INGRESS_API_VERSION, kind="Ingress")
EXTERNAL_SERVICES = Watch(api_version="v1", kind="Service", labels=names.LGP_NAMESPACE_LABEL)
"""Services beside a shared Ingress in another namespace than the LGPs'."""
BUDGETS = Watch(api_version=names.BUDGET[0], kind=names.BUDGET[1])
"""All budgets, whichever client made them: a pod of two budgets cannot be evicted."""
UNLABELLED = tuple(
    Watch(api_version=api_version, kind=kind, labels=f"!{names.LGP_LABEL}")
    for api_version, kind in (("apps/v1", "ReplicaSet"), ("v1", "Pod"))
)
"""ReplicaSets and pods that carry no label of ours: those of workloads that were adopted with their pods."""

WATCHED_OTHERWISE = (INGRESS_PATH_KIND, "Secret", BUDGETS.kind)
"""Kinds of an LGP's objects that need no watch of their own: a path is watched with its Ingress."""


def watch_of_lgp_objects(api_version: str, kind: str) -> Watch:
    """Return the watch of the LGPs' objects of one kind."""
    return Watch(api_version=api_version, kind=kind, labels=names.LGP_LABEL)


def usual_watches(config: OperatorConfig) -> tuple[Watch, ...]:
    """Return what is watched in every namespace of the data plane."""
    ingress = config.ingress
    ingresses = (INGRESSES,) if ingress.enabled and not ingress.namespace else ()
    budgets = (BUDGETS,) if config.pod_disruption_budgets else ()
    return (LGPS, SECRETS, *ingresses, *budgets, *(watch_of_lgp_objects(*kind) for kind in WATCHED_KINDS))


def external_watches(config: OperatorConfig) -> tuple[tuple[Watch, str], ...]:
    """Return what is watched in the namespace of the shared Ingress, with that namespace."""
    ingress = config.ingress
    if not (ingress.enabled and ingress.namespace):
        return ()
    return (INGRESSES, ingress.namespace), (EXTERNAL_SERVICES, ingress.namespace)


def extra_watches(state: OperatorState, plan: Plan) -> Iterator[tuple[Watch, str]]:
    """Yield the watches, with their namespaces, that the objects of one LGP call for beyond the usual ones."""
    for name, entry in state.objects.items():
        key = entry.applied.key
        # An object that is no longer planned cannot drift, and the right to watch its kind may be gone.
        if key.kind in WATCHED_OTHERWISE or name not in plan.objects:
            continue
        yield watch_of_lgp_objects(key.api_version, key.kind), key.namespace
        if key.kind == SCALED_OBJECT:
            yield watch_of_lgp_objects(HORIZONTAL_API_VERSION, HORIZONTAL), key.namespace
    for held in plan.kept_pods:
        yield from ((unlabelled, plan.objects[held].key.namespace) for unlabelled in UNLABELLED)
    for name, rejection in state.rejected.items():
        if rejection.reason == KIND_NOT_SERVED and name in plan.objects:
            key = plan.objects[name].key  # the watch begins once the kind is served
            yield watch_of_lgp_objects(key.api_version, key.kind), key.namespace
