"""From an LGP alone, the Kubernetes objects of its Agent Server, as plain JSON for server-side apply. Pure.

Everything here is a function of an `Lgp` (redacted or not) and an `OperatorConfig`. No clock, no I/O, no randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp
from engine.ports import Manifest, ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One field of a Secret that is generated once: `secrets.token_hex(random_bytes)`."""

    field: str
    random_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A Secret that is created once and never overwritten: its values are generated, so no manifest holds them."""

    key: ObjectKey
    manifest: Manifest
    """The Secret without its values."""
    generated: tuple[Generated, ...]

    def with_values(self, values: Mapping[str, str]) -> Manifest:
        """Return the manifest to create, with `values` by field."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressPath:
    """The place of an Agent Server on the shared Ingress."""

    namespace: str
    """Where the shared Ingress is."""
    host: str
    """Of its rule, without a port; empty for any."""
    path: str
    service: str
    port: int


def credentials(lgp: Lgp, config: OperatorConfig) -> list[Credential]:
    """Return the Secrets to create before `objects`, where they do not exist."""
    raise NotImplementedError


def objects(lgp: Lgp, config: OperatorConfig) -> list[Manifest]:
    """Return every object to apply, in order. Raises SettingsError for a template that does not fit."""
    raise NotImplementedError


def ingress_path(lgp: Lgp, config: OperatorConfig) -> IngressPath | None:
    """Return the path that the shared Ingress must carry, None when it must carry none."""
    raise NotImplementedError


def route_problem(lgp: Lgp, config: OperatorConfig) -> str | None:
    """Return why an LGP that asks for ingress cannot have one, for a condition; None when all is well."""
    raise NotImplementedError


def is_shared_ingress(ingress: Manifest) -> bool:
    """Whether this Ingress is the one whose paths the operator keeps (by its annotation)."""
    raise NotImplementedError


def with_path(ingress: Manifest, path: str, service: str, port: int, *, host: str = "") -> Manifest:
    """Return `ingress` with `path` leading to `service`; equal to `ingress` when it already does."""
    raise NotImplementedError


def without_path(ingress: Manifest, path: str) -> Manifest:
    """Return `ingress` without `path`, under whichever host; equal to `ingress` when it has none."""
    raise NotImplementedError


def endpoint(lgp: Lgp, config: OperatorConfig) -> str:
    """Return the URL that people and the LGP's status name: through the hostname when routed, else in the cluster."""
    raise NotImplementedError


def key_of(manifest: Manifest) -> ObjectKey:
    """Return which object `manifest` is."""
    raise NotImplementedError


def label_value(name: str) -> str:
    """Return the value of LGP_LABEL for an LGP's name: the name itself, shortened with a hash where it is too long."""
    raise NotImplementedError


def object_selector(lgp_name: str) -> str:
    """Return the label selector that finds every object of an LGP, pods and volume claims included."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectNames:
    """What the objects of an LGP are called."""

    server: str
    """API server Deployment, its Service and its route."""
    queue: str
    database: str
    redis: str


def object_names(lgp: Lgp, config: OperatorConfig) -> ObjectNames:
    """Return the names of the objects of `lgp`."""
    raise NotImplementedError
