"""Postgres of one Agent Server: a Secret whose password is generated once, a Service and a StatefulSet.

The LGP names the Secret. A Secret whose name begins with the name of the LGP's objects belongs to the LGP and is
deleted with it. Any other Secret (the resource definition's default is `postgres-credentials`) may be shared by all
LGPs of the namespace, so it has neither an owner nor the label of an LGP, and is never deleted. An existing Secret is
used as it is.

Volume claim templates cannot be changed later, so they carry the labels that never change, and not the LGP's own
labels. The API server refuses a changed `storageSizeGi` with a message that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine import names
from engine.operator import templates
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp, Resources
from engine.operator.manifests import adopted, canonical, overlay, quantity
from engine.operator.manifests.environment import PASSWORD, POSTGRES_PORT, makes_postgres, postgres
from engine.operator.manifests.naming import object_names
from engine.ports import Manifest, ObjectKey

PASSWORD_BYTES = 24
"""Random bytes of a generated password; twice as many characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One field of a Secret that is generated once, with `secrets.token_hex(random_bytes)`."""

    field: str
    random_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A Secret that is created once and never overwritten. Its values are generated, so no manifest holds them."""

    key: ObjectKey
    manifest: Manifest
    """The Secret without its values."""
    generated: tuple[Generated, ...]

    def with_values(self, values: Mapping[str, str]) -> Manifest:
        """Return the manifest to create, with `values` by field; it must never be logged. Raises ValueError."""
        missing = {one.field for one in self.generated} ^ set(values)
        if missing:
            raise ValueError(f"{self.key} needs exactly the fields {[one.field for one in self.generated]}")
        return {**self.manifest, "stringData": dict(values)}


def credentials(lgp: Lgp, config: OperatorConfig) -> list[Credential]:
    """Return the Secrets to create, unless they exist, before `objects` are applied."""
    if not makes_postgres(lgp):
        return []
    name = postgres(lgp, config).secret
    shared = {"name": name, "namespace": lgp.namespace, "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY}}
    metadata = overlay.metadata(lgp, name) if owns_secret(lgp, config) else shared
    manifest: Manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
    generated = (Generated(field=PASSWORD, random_bytes=PASSWORD_BYTES),)
    return [Credential(key=ObjectKey.of(manifest), manifest=manifest, generated=generated)]


def owns_secret(lgp: Lgp, config: OperatorConfig) -> bool:
    """Whether the Secret with the password belongs to the LGP, and is deleted with it."""
    return postgres(lgp, config).secret.startswith(object_names(lgp, config).server)


def objects(lgp: Lgp, config: OperatorConfig) -> list[Manifest]:
    """Return the Service and the StatefulSet, or nothing when the LGP needs none. Raises SettingsError."""
    if not makes_postgres(lgp):
        return []
    stateful_set = _stateful_set(lgp, config)
    return [internal_service(lgp, stateful_set, POSTGRES_PORT, postgres(lgp, config).service), stateful_set]


def internal_service(lgp: Lgp, workload: Manifest, port: int, name: str) -> Manifest:
    """Return the Service `name` of a workload, with the workload's own selector."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": overlay.metadata(lgp, name),
        "spec": {
            "type": "ClusterIP",
            "selector": dict(workload["spec"]["selector"]["matchLabels"]),
            "ports": [{"port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }
    adopted.keep_selector(lgp, service)
    return service


def _stateful_set(lgp: Lgp, config: OperatorConfig) -> Manifest:
    database = lgp.spec.database
    name = object_names(lgp, config).database
    found = postgres(lgp, config)
    asked = _complete(database.resources, config)
    manifest = templates.fill(
        "db",
        config.templates.db,
        {
            "service_name": name,
            "replicas": 1,
            "max_connections": database.max_connections,
            "secret_name": found.secret,
            "postgres_user": found.user,
            "postgres_db": found.database,
            "cpu": asked.requests["cpu"],
            "memory_mb": quantity.mebibytes(asked.requests["memory"]) or 0,
            "cpu_limit": asked.limits["cpu"],
            "memory_limit": quantity.mebibytes(asked.limits["memory"]) or 0,
            "storage_gi": database.storage_size_gi,
        },
    )
    manifest["spec"]["serviceName"] = found.service
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    adopted.keep_database_image(lgp, container)
    overlay.merge_resources_into(container, _named(asked, database.resources))
    adopted.keep_selector(lgp, manifest, name)
    overlay.merge_workload(lgp, manifest, name)
    for claim in manifest["spec"].get("volumeClaimTemplates", ()):
        labels = (claim.get("metadata") or {}).get("labels") or {}
        claim["metadata"] = {**(claim.get("metadata") or {}), "labels": {**labels, **overlay.own_labels(lgp)}}
        canonical.claim_template(claim)
    return manifest


def _complete(asked: Resources, config: OperatorConfig) -> Resources:
    """Return request and limit of cpu and memory.

    A missing request is the limit, else the configured default. A missing limit is twice the request.
    """
    default = {"cpu": config.database_cpu, "memory": f"{config.database_memory_mb}Mi"}
    requests: dict[str, str] = dict(asked.requests)
    limits: dict[str, str] = dict(asked.limits)
    for name in default:
        requests.setdefault(name, limits.get(name, default[name]))
        limits.setdefault(name, quantity.doubled(requests[name]) or requests[name])
    return Resources(requests=requests, limits=limits, claims=asked.claims)


def _named(complete: Resources, asked: Resources) -> Resources:
    """Return the resources of `complete` that the LGP itself names; the template gives all others."""
    named = {*asked.requests, *asked.limits}
    return Resources(
        requests={name: amount for name, amount in complete.requests.items() if name in named},
        limits={name: amount for name, amount in complete.limits.items() if name in named},
        claims=asked.claims,
    )
