"""The plan of an LGP: everything that the LGP asks for, as one table of objects with digests that may be logged. Pure.

The digests are those of manifests made from the redacted spec: a keyed digest stands for each literal secret value.
An LGP with an invalid spec, or templates that do not fit, give an empty plan with a problem; the operator then leaves
the objects in the cluster as they are.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace

from engine.digests import digest
from engine.errors import InvalidResource, SettingsError
from engine.operator import manifests
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted, IngressPath
from engine.operator.lgp import Lgp, parse_lgp
from engine.operator.manifests import Credential
from engine.operator.manifests.adopted import without_fixed, without_pods
from engine.operator.state import ObservedLgp
from engine.ports import Manifest, ObjectKey

SECOND_BUDGET = "SecondBudget"
"""Reason of a rejected PodDisruptionBudget: another budget selects the same pods."""
INGRESS_API_VERSION = "networking.k8s.io/v1"
INGRESS_PATH_KIND = "IngressPath"
"""Kind under which events list a path on the shared Ingress. No kind of Kubernetes; the object's name is the path."""
SHARED_INGRESS_MISSING = "SharedIngressMissing"
"""Reason of a rejected path: there is no shared Ingress."""
MANAGED_RESOURCES_OFF = "ManagedResourcesOff"
"""Reason of a refused LGP: the LGP asks for objects that the configuration does not let the operator create."""
PATH_TAKEN = "PathTaken"
"""Reason of a rejected path: an LGP of the same name in another namespace has the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedObject:
    """One object that an LGP asks for. Exactly one of `manifest`, `credential` and `route` is set."""

    key: ObjectKey
    digest: str
    manifest: Manifest | None = None
    credential: Credential | None = None
    ingress_path: IngressPath | None = None
    adopted: bool = False
    """An adopted workload: the manifest leaves out the immutable fields."""
    keeps_pods: bool = False
    """An adopted workload whose pods keep running: the manifest also leaves out the pod template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that an LGP asks for, in the order of application."""

    objects: dict[str, PlannedObject] = field(default_factory=dict)
    """`str(key)` → the planned object."""
    server: str = ""
    """`str(key)` of the Agent Server's Deployment."""
    database: str = ""
    """`str(key)` of the Postgres StatefulSet, also when the LGP does not ask for one."""
    database_name: str = ""
    endpoint: str = ""
    """URL of the Agent Server."""
    problem: tuple[str, str] | None = None
    """Reason and message, when the LGP or the templates are invalid."""
    route_problem: str | None = None
    """Why the LGP asks for a route to the Agent Server and cannot have one."""
    overridden: tuple[str, ...] = ()
    """Each field of the spec that another field overrides, with both fields."""

    @property
    def kept_pods(self) -> frozenset[str]:
        """`str(key)` of the adopted workloads whose pods keep running."""
        return frozenset(key for key, planned in self.objects.items() if planned.keeps_pods)


def plan_for(observed: ObservedLgp, config: OperatorConfig, adopted: Adopted | None = None) -> Plan:
    """Return the plan of an LGP with `adopted` objects, without secret values. Never raises."""
    try:
        lgp = parse_lgp(observed.namespace, observed.name, observed.uid, observed.spec, adopted)
        if (off := manifests.why_refused(lgp, config)) is not None:
            return Plan(problem=(MANAGED_RESOURCES_OFF, off))
        return build_plan(lgp, config)
    except InvalidResource as error:
        return Plan(problem=("InvalidSpec", str(error)))
    except SettingsError as error:
        return Plan(problem=("InvalidTemplate", str(error)))


def build_plan(lgp: Lgp, config: OperatorConfig, kept_pods: Container[str] | None = None) -> Plan:
    """Return the plan of `lgp`; its manifests have the secret values when `lgp` is not redacted.

    `kept_pods` are the adopted workloads (`str(key)`) whose pods keep running; None finds them by digests, which needs
    a redacted LGP. Raises SettingsError for templates that do not fit.
    """
    names = manifests.object_names(lgp, config)
    return Plan(
        objects={str(planned.key): planned for planned in _objects(lgp, config, kept_pods)},
        server=str(ObjectKey(api_version="apps/v1", kind="Deployment", namespace=lgp.namespace, name=names.server)),
        database=str(
            ObjectKey(api_version="apps/v1", kind="StatefulSet", namespace=lgp.namespace, name=names.database)
        ),
        database_name=names.database,
        endpoint=manifests.endpoint(lgp, config),
        route_problem=manifests.route_problem(lgp, config),
        overridden=tuple(_overridden(lgp)),
    )


def _overridden(lgp: Lgp) -> Iterator[str]:
    named, managed = lgp.spec.server_spec.service_account_name, manifests.service_account_name(lgp)
    if lgp.spec.managed_resources.service_account is not None and named not in (None, "", managed):
        yield f"spec.serverSpec.serviceAccountName={named}, since spec.managedResources.serviceAccount gives {managed}"


def _objects(lgp: Lgp, config: OperatorConfig, kept_pods: Container[str] | None) -> Iterator[PlannedObject]:
    for credential in manifests.credentials(lgp, config):
        yield PlannedObject(key=credential.key, digest=digest(credential.manifest), credential=credential)
    for manifest in manifests.objects(lgp, config):
        yield _object(manifest, lgp, kept_pods)
    entry = manifests.ingress_path(lgp, config)
    if entry is not None:
        key = ingress_path_key(entry.namespace, entry.path)
        ingress_path = IngressPath(host=entry.host, path=entry.path, service=entry.service, port=entry.port)
        yield PlannedObject(key=key, digest=digest(ingress_path.model_dump()), ingress_path=ingress_path)


def _object(manifest: Manifest, lgp: Lgp, kept_pods: Container[str] | None) -> PlannedObject:
    key = ObjectKey.of(manifest)
    known = lgp.adopted.objects.get(str(key))
    if known is None or "template" not in manifest.get("spec", {}):
        return PlannedObject(key=key, digest=digest(manifest), manifest=manifest)
    same = known.template_digest == template_digest(manifest)
    keeps_pods = same if kept_pods is None else str(key) in kept_pods
    manifest = without_fixed(manifest)
    if keeps_pods:
        manifest = without_pods(manifest)
    return PlannedObject(key=key, digest=digest(manifest), manifest=manifest, adopted=True, keeps_pods=keeps_pods)


def template_digest(manifest: Manifest) -> str:
    """Return the digest of the pod template of a workload, as `AdoptedObject.template_digest` has it."""
    return digest(manifest["spec"]["template"])


def pods_of_budget(planned: PlannedObject, plan: Plan) -> dict[str, str]:
    """Return the labels of the pods that a planned budget covers; of kept pods, only the labels that it selects."""
    spec = (planned.manifest or {}).get("spec", {})
    labels: dict[str, str] = dict(spec["selector"]["matchLabels"])
    workload = plan.objects.get(str(replace(planned.key, api_version="apps/v1", kind="Deployment")))
    if workload is not None and workload.manifest is not None:
        labels |= workload.manifest["spec"].get("template", {}).get("metadata", {}).get("labels", {})
    return labels


def ingress_path_key(namespace: str, path: str) -> ObjectKey:
    """Return the key that events give to `path` on the shared Ingress of `namespace`."""
    return ObjectKey(api_version=INGRESS_API_VERSION, kind=INGRESS_PATH_KIND, namespace=namespace, name=path)
