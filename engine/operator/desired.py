"""What an LGP asks for, as one table of objects with digests that may be logged. Pure.

The digests are of manifests made from the redacted spec: a literal secret value in the LGP counts by its keyed
digest. An LGP that cannot be understood, or templates that do not fit, ask for nothing and say why; what is in the
cluster stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.errors import InvalidResource, SettingsError
from engine.folding import digest
from engine.operator import lgp as lgps
from engine.operator import manifests
from engine.operator.config import OperatorConfig
from engine.operator.events import Route
from engine.operator.lgp import Lgp
from engine.operator.manifests import Credential
from engine.operator.state import LgpView
from engine.ports import Manifest, ObjectKey

INGRESS_API_VERSION = "networking.k8s.io/v1"
ROUTE_KIND = "IngressPath"
"""What an entry of the shared Ingress is called in events: it is no object of its own. Named by its path."""
SHARED_INGRESS_MISSING = "SharedIngressMissing"
"""Reason of a rejected path: there is no shared Ingress."""
PATH_TAKEN = "PathTaken"
"""Reason of a rejected path: it is that of an LGP of the same name in another namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One object that an LGP asks for: a manifest, a credential, or a route."""

    key: ObjectKey
    digest: str
    manifest: Manifest | None = None
    credential: Credential | None = None
    route: Route | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything that an LGP asks for, in the order of application."""

    objects: dict[str, Wanted] = field(default_factory=dict)
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


def desired(view: LgpView, config: OperatorConfig) -> Desired:
    """Return what the LGP asks for, without secret values. Never raises."""
    try:
        lgp = lgps.parse(view.namespace, view.name, view.uid, view.spec)
        return of(lgp, config)
    except InvalidResource as error:
        return Desired(problem=("InvalidSpec", str(error)))
    except SettingsError as error:
        return Desired(problem=("InvalidTemplate", str(error)))


def of(lgp: Lgp, config: OperatorConfig) -> Desired:
    """Return what `lgp` asks for; with secret values in the manifests when `lgp` was not redacted.

    Raises SettingsError for templates that do not fit.
    """
    names = manifests.object_names(lgp, config)
    return Desired(
        objects={str(wanted.key): wanted for wanted in _all(lgp, config)},
        server=str(ObjectKey(api_version="apps/v1", kind="Deployment", namespace=lgp.namespace, name=names.server)),
        database=str(
            ObjectKey(api_version="apps/v1", kind="StatefulSet", namespace=lgp.namespace, name=names.database)
        ),
        database_name=names.database,
        endpoint=manifests.endpoint(lgp, config),
        route_problem=manifests.route_problem(lgp, config),
    )


def _all(lgp: Lgp, config: OperatorConfig) -> Iterator[Wanted]:
    for credential in manifests.credentials(lgp, config):
        yield Wanted(key=credential.key, digest=digest(credential.manifest), credential=credential)
    for manifest in manifests.objects(lgp, config):
        yield Wanted(key=manifests.key_of(manifest), digest=digest(manifest), manifest=manifest)
    entry = manifests.ingress_path(lgp, config)
    if entry is not None:
        key = route_key(entry.namespace, entry.path)
        route = Route(host=entry.host, path=entry.path, service=entry.service, port=entry.port)
        yield Wanted(key=key, digest=digest(route.model_dump()), route=route)


def route_key(namespace: str, path: str) -> ObjectKey:
    """Return the key under which the entry for `path` on the shared Ingress of `namespace` is known."""
    return ObjectKey(api_version=INGRESS_API_VERSION, kind=ROUTE_KIND, namespace=namespace, name=path)
