"""What an LGP asks for, as one table of objects with digests that may be logged. Pure.

The digests are of manifests made from the redacted spec: a literal secret value in the LGP counts by its keyed
digest. An LGP that cannot be understood, or templates that do not fit, ask for nothing and say why; what is in the
cluster stays."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace

from engine.digests import digest
from engine.errors import InvalidResource, SettingsError
from engine.operator import manifests
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted, Route
from engine.operator.lgp import Lgp, parse_lgp
from engine.operator.manifests import Credential
from engine.operator.manifests.adopted import without_fixed, without_pods
from engine.operator.state import ObservedLgp
from engine.ports import Manifest, ObjectKey

SECOND_BUDGET = "SecondBudget"
"""Reason of a rejected PodDisruptionBudget: another one selects the same pods."""
INGRESS_API_VERSION = "networking.k8s.io/v1"
ROUTE_KIND = "IngressPath"
"""What an entry of the shared Ingress is called in events: it is no object of its own. Named by its path."""
SHARED_INGRESS_MISSING = "SharedIngressMissing"
"""Reason of a rejected path: there is no shared Ingress."""
MANAGED_RESOURCES_OFF = "ManagedResourcesOff"
"""Reason of a refused LGP: it asks for objects that the operator may not make here."""
PATH_TAKEN = "PathTaken"
"""Reason of a rejected path: it is that of an LGP of the same name in another namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedObject:
    """One object that an LGP asks for: a manifest, a credential, or a route."""

    key: ObjectKey
    digest: str
    manifest: Manifest | None = None
    credential: Credential | None = None
    route: Route | None = None
    adopted: bool = False
    """It is a workload that was there before: the manifest leaves out what nobody can change."""
    held: bool = False
    """Its pods stay as they are: the manifest leaves them out too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that an LGP asks for, in the order of application."""

    objects: dict[str, PlannedObject] = field(default_factory=dict)
    """By `str(key)`."""
    server: str = ""
    """Key of the API server's Deployment."""
    database: str = ""
    """Key of the Postgres StatefulSet, also where it is not asked for."""
    database_name: str = ""
    endpoint: str = ""
    problem: tuple[str, str] | None = None
    """Reason and message, when the LGP cannot be understood."""
    route_problem: str | None = None
    """Why it cannot be reached although it asks to be."""
    overridden: tuple[str, ...] = ()
    """What the LGP says and another field of it overrides, each with which."""

    @property
    def held(self) -> frozenset[str]:
        """Keys of the workloads whose pods stay as they are."""
        return frozenset(key for key, wanted in self.objects.items() if wanted.held)


def plan_for(view: ObservedLgp, config: OperatorConfig, adopted: Adopted | None = None) -> Plan:
    """Return what the LGP asks for, beside what was `adopted`, without secret values. Never raises."""
    try:
        lgp = parse_lgp(view.namespace, view.name, view.uid, view.spec, adopted)
        if (off := manifests.why_refused(lgp, config)) is not None:
            return Plan(problem=(MANAGED_RESOURCES_OFF, off))
        return build_plan(lgp, config)
    except InvalidResource as error:
        return Plan(problem=("InvalidSpec", str(error)))
    except SettingsError as error:
        return Plan(problem=("InvalidTemplate", str(error)))


def build_plan(lgp: Lgp, config: OperatorConfig, held: Container[str] | None = None) -> Plan:
    """Return what `lgp` asks for; with secret values in the manifests when `lgp` was not redacted.

    `held` are the workloads whose pods stay as they are; None: found by digests, which only a redacted LGP can do.
    Raises SettingsError for templates that do not fit.
    """
    names = manifests.object_names(lgp, config)
    return Plan(
        objects={str(wanted.key): wanted for wanted in _all(lgp, config, held)},
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


def _all(lgp: Lgp, config: OperatorConfig, held: Container[str] | None) -> Iterator[PlannedObject]:
    for credential in manifests.credentials(lgp, config):
        yield PlannedObject(key=credential.key, digest=digest(credential.manifest), credential=credential)
    for manifest in manifests.objects(lgp, config):
        yield _object(manifest, lgp, held)
    entry = manifests.ingress_path(lgp, config)
    if entry is not None:
        key = route_key(entry.namespace, entry.path)
        route = Route(host=entry.host, path=entry.path, service=entry.service, port=entry.port)
        yield PlannedObject(key=key, digest=digest(route.model_dump()), route=route)


def _object(manifest: Manifest, lgp: Lgp, held: Container[str] | None) -> PlannedObject:
    key = ObjectKey.of(manifest)
    there = lgp.adopted.objects.get(str(key))
    adopted = there is not None and "template" in manifest.get("spec", {})
    holds = False
    if there is not None and adopted:
        holds = (there.template == template_digest(manifest)) if held is None else str(key) in held
        manifest = without_fixed(manifest)
    if holds:
        manifest = without_pods(manifest)
    return PlannedObject(key=key, digest=digest(manifest), manifest=manifest, adopted=adopted, held=holds)


def template_digest(manifest: Manifest) -> str:
    """Return the digest of the pods of a workload as `AdoptedObject.template` has it."""
    return digest(manifest["spec"]["template"])


def pods_of_budget(wanted: PlannedObject, plan: Plan) -> dict[str, str]:
    """Return the labels of the pods that a budget of `plan` is for; of pods that stay as they are, those it selects."""
    spec = (wanted.manifest or {}).get("spec", {})
    labels: dict[str, str] = dict(spec["selector"]["matchLabels"])
    workload = replace(wanted.key, api_version="apps/v1", kind="Deployment")
    of_it = plan.objects.get(str(workload))
    if of_it is not None and of_it.manifest is not None:
        labels |= of_it.manifest["spec"].get("template", {}).get("metadata", {}).get("labels", {})
    return labels


def route_key(namespace: str, path: str) -> ObjectKey:
    """Return the key under which the entry for `path` on the shared Ingress of `namespace` is known."""
    return ObjectKey(api_version=INGRESS_API_VERSION, kind=ROUTE_KIND, namespace=namespace, name=path)
