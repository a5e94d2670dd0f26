"""The environment of Agent Server containers.

Three layers, later ones win: the template's, the LGP's, the platform's. The platform sets where Postgres and Redis are,
how many runs a process works at, the port and the mount prefix; a variable appears once.

No password is in a manifest: `POSTGRES_PASSWORD` comes from the Secret, and the kubelet expands `$(POSTGRES_PASSWORD)`
in the URIs. So a password that somebody puts into the Secret by hand must need no escaping in a URL; generated ones
are hexadecimal.

`POSTGRES_URI_CUSTOM` (or `REDIS_URI_CUSTOM`) in the LGP, as a value or by reference, means: no database (or Redis) is
made, and the URIs point there. Without it, and with `enabled: false`, an LGP's own `POSTGRES_URI` stays as it is. An
empty value counts as unset.

Several Agent Servers may share one such Redis. They tell their keys apart by `REDIS_KEY_PREFIX`, which the platform
sets unless the template or the LGP does, be it to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.operator.config import OperatorConfig
from engine.operator.lgp import EnvVar, Lgp
from engine.operator.manifests import canonical
from engine.operator.manifests.naming import object_names

Json = Any

POSTGRES_USER = "postgres"
POSTGRES_DB = "postgres"
POSTGRES_PORT = 5432
PASSWORD = "POSTGRES_PASSWORD"
"""Key in the Secret, and variable in the containers."""
REDIS_PORT = 6379
KEY_PREFIX = "REDIS_KEY_PREFIX"
"""Variable that goes before every key and channel of an Agent Server in Redis."""
JOBS_PER_WORKER = 10
"""Runs that one process works at, where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """What leads to the data in a Postgres."""

    service: str
    secret: str
    """Name of the Secret with the password."""
    user: str = POSTGRES_USER
    database: str = POSTGRES_DB


def postgres(lgp: Lgp, config: OperatorConfig) -> Postgres:
    """Return what leads to the Postgres of `lgp`: to the one that is there already, where it was taken over."""
    if (there := lgp.adopted.database) is not None:
        return Postgres(service=there.service, secret=there.secret, user=there.user, database=there.database)
    return Postgres(service=object_names(lgp, config).database, secret=lgp.spec.database.secret_name)


def custom_postgres(lgp: Lgp) -> bool:
    """Whether the LGP brings a Postgres of its own as POSTGRES_URI_CUSTOM."""
    return _set(lgp, "POSTGRES_URI_CUSTOM")


def makes_postgres(lgp: Lgp) -> bool:
    """Whether the operator makes a Postgres for `lgp`."""
    return lgp.spec.database.enabled and not custom_postgres(lgp)


def makes_redis(lgp: Lgp) -> bool:
    """Whether the operator makes a Redis for `lgp`."""
    return lgp.spec.redis.enabled and not _set(lgp, "REDIS_URI_CUSTOM")


def service_host(service: str, lgp: Lgp, config: OperatorConfig) -> str:
    """Return the full name of a Service beside `lgp`: it resolves without the search list of the pod's DNS."""
    return f"{service}.{lgp.namespace}.svc.{config.cluster_domain}"


def environment(
    lgp: Lgp, config: OperatorConfig, base: Sequence[Json], *, jobs: int | None, port: int, mount_prefix: str | None
) -> list[Json]:
    """Return the variables of one Agent Server container.

    `base` is the template's; `jobs` is how many runs the process works at, None for whatever the layers below say.
    """
    given = [*base, *(_entry(var) for var in lgp.spec.server_spec.env)]
    platform = [
        {"name": "PORT", "value": str(port)},
        *_jobs(given, jobs),
        *([{"name": "MOUNT_PREFIX", "value": mount_prefix}] if mount_prefix else []),
        *_redis(lgp, config, given),
        *_postgres(lgp, config),
    ]
    # References look back: `$(POSTGRES_URI_CUSTOM)` is among the given ones, so the platform's come last.
    return canonical.by_key([canonical.variable(entry) for entry in (*given, *platform)], "name")


def _jobs(given: Sequence[Json], jobs: int | None) -> list[Json]:
    if jobs is None:
        if _names(given, "N_JOBS_PER_WORKER"):
            return []
        jobs = JOBS_PER_WORKER
    return [{"name": "N_JOBS_PER_WORKER", "value": str(jobs)}]


def _redis(lgp: Lgp, config: OperatorConfig, given: Sequence[Json]) -> list[Json]:
    if _set(lgp, "REDIS_URI_CUSTOM"):
        prefix = [] if not config.redis_key_prefix or _names(given, KEY_PREFIX) else [_key_prefix(lgp)]
        return [{"name": "REDIS_URI", "value": "$(REDIS_URI_CUSTOM)"}, *prefix]
    if not makes_redis(lgp):
        return []
    host = service_host(object_names(lgp, config).redis, lgp, config)
    return [{"name": "REDIS_URI", "value": f"redis://{host}:{REDIS_PORT}"}]


def _key_prefix(lgp: Lgp) -> Json:
    """Return the variable by which keys of `lgp` differ from those of every other LGP of the cluster, for its life."""
    return {"name": KEY_PREFIX, "value": f"{lgp.namespace}:{lgp.name}:"}


def _names(entries: Sequence[Json], variable: str) -> bool:
    return any(entry.get("name") == variable for entry in entries)


def _postgres(lgp: Lgp, config: OperatorConfig) -> list[Json]:
    if custom_postgres(lgp):
        return _uris("$(POSTGRES_URI_CUSTOM)")
    if not makes_postgres(lgp):
        return []
    found = postgres(lgp, config)
    secret = {"secretKeyRef": {"name": found.secret, "key": PASSWORD}}
    host = service_host(found.service, lgp, config)
    uri = f"postgresql://{found.user}:$({PASSWORD})@{host}:{POSTGRES_PORT}/{found.database}?sslmode=disable"
    return [{"name": PASSWORD, "valueFrom": secret}, *_uris(uri)]


def _uris(uri: str) -> list[Json]:
    return [{"name": "POSTGRES_URI", "value": uri}, {"name": "DATABASE_URI", "value": uri}]


def _entry(var: EnvVar) -> Json:
    return {"name": var.name, "value": var.value, "valueFrom": var.value_from}


def _set(lgp: Lgp, name: str) -> bool:
    found = [var for var in lgp.spec.server_spec.env if var.name == name]
    return bool(found) and bool(found[-1].value or found[-1].value_from)
