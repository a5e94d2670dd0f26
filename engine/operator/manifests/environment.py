"""The environment of Agent Server containers.

There are three layers, of which later ones win: the template's, the LGP's, the platform's. The platform sets the
addresses of Postgres and Redis, the number of runs that a process executes at the same time, the port and the mount
prefix. Each variable appears once.

No manifest holds a password: `POSTGRES_PASSWORD` comes from the Secret, and the kubelet expands `$(POSTGRES_PASSWORD)`
in the URIs. So a password that is put into the Secret by hand must need no escaping in a URL; generated passwords are
hexadecimal.

`POSTGRES_URI_CUSTOM` (or `REDIS_URI_CUSTOM`) in the LGP, as a value or as a reference, means that no database (or
Redis) is made, and that the URIs point to the LGP's own. Without it, and with `enabled: false`, an LGP's own
`POSTGRES_URI` stays as it is. An empty value counts as unset.

Several Agent Servers may share one such Redis. Their keys differ by `REDIS_KEY_PREFIX`, which the platform sets unless
the template or the LGP sets it, even to an empty value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.operator.config import OperatorConfig
from engine.operator.lgp import EnvVar, Lgp
from engine.operator.manifests import canonical
from engine.operator.manifests.naming import object_names
from engine.ports import JsonObject

POSTGRES_USER = "postgres"
POSTGRES_DB = "postgres"
POSTGRES_PORT = 5432
PASSWORD = "POSTGRES_PASSWORD"
"""Key in the Secret, and name of the variable in the containers."""
REDIS_PORT = 6379
KEY_PREFIX = "REDIS_KEY_PREFIX"
"""Name of the variable with the prefix of every key and channel of an Agent Server in Redis."""
JOBS_PER_WORKER = 10
"""Default number of runs that one process executes at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """Where the Postgres of an Agent Server is, and how to log in."""

    service: str
    """Name of the Service."""
    secret: str
    """Name of the Secret with the password."""
    user: str = POSTGRES_USER
    database: str = POSTGRES_DB


def postgres(lgp: Lgp, config: OperatorConfig) -> Postgres:
    """Return where the Postgres of `lgp` is; an adopted one keeps its names."""
    if (adopted := lgp.adopted.database) is not None:
        return Postgres(service=adopted.service, secret=adopted.secret, user=adopted.user, database=adopted.database)
    return Postgres(service=object_names(lgp, config).database, secret=lgp.spec.database.secret_name)


def custom_postgres(lgp: Lgp) -> bool:
    """Whether the LGP names its own Postgres in POSTGRES_URI_CUSTOM."""
    return _is_set(lgp, "POSTGRES_URI_CUSTOM")


def makes_postgres(lgp: Lgp) -> bool:
    """Whether the operator makes a Postgres for `lgp`."""
    return lgp.spec.database.enabled and not custom_postgres(lgp)


def makes_redis(lgp: Lgp) -> bool:
    """Whether the operator makes a Redis for `lgp`."""
    return lgp.spec.redis.enabled and not _is_set(lgp, "REDIS_URI_CUSTOM")


def service_host(service: str, lgp: Lgp, config: OperatorConfig) -> str:
    """Return the full DNS name of a Service beside `lgp`, which resolves without the pod's DNS search list."""
    return f"{service}.{lgp.namespace}.svc.{config.cluster_domain}"


def environment(
    lgp: Lgp,
    config: OperatorConfig,
    base: Sequence[JsonObject],
    *,
    jobs: int | None,
    port: int,
    mount_prefix: str | None,
) -> list[JsonObject]:
    """Return the variables of one Agent Server container.

    `base` are the template's variables. `jobs` is how many runs the process executes at the same time; None leaves the
    number to the template and the LGP. `mount_prefix` is the path of the exposure, None without one.
    """
    given = [*base, *(_entry(var) for var in lgp.spec.server_spec.env)]
    platform = [
        {"name": "PORT", "value": str(port)},
        *_jobs(given, jobs),
        *([{"name": "MOUNT_PREFIX", "value": mount_prefix}] if mount_prefix else []),
        *_redis(lgp, config, given),
        *_postgres(lgp, config),
    ]
    # A reference like `$(POSTGRES_URI_CUSTOM)` sees earlier variables only, so the platform's come last.
    return canonical.by_key([canonical.variable(entry) for entry in (*given, *platform)], "name")


def _jobs(given: Sequence[JsonObject], jobs: int | None) -> list[JsonObject]:
    if jobs is None:
        if _names(given, "N_JOBS_PER_WORKER"):
            return []
        jobs = JOBS_PER_WORKER
    return [{"name": "N_JOBS_PER_WORKER", "value": str(jobs)}]


def _redis(lgp: Lgp, config: OperatorConfig, given: Sequence[JsonObject]) -> list[JsonObject]:
    if _is_set(lgp, "REDIS_URI_CUSTOM"):
        prefix = [] if not config.redis_key_prefix or _names(given, KEY_PREFIX) else [_key_prefix(lgp)]
        return [{"name": "REDIS_URI", "value": "$(REDIS_URI_CUSTOM)"}, *prefix]
    if not makes_redis(lgp):
        return []
    host = service_host(object_names(lgp, config).redis, lgp, config)
    return [{"name": "REDIS_URI", "value": f"redis://{host}:{REDIS_PORT}"}]


def _key_prefix(lgp: Lgp) -> JsonObject:
    """Return the variable that makes the keys of `lgp` differ from those of every other LGP, for the LGP's life."""
    return {"name": KEY_PREFIX, "value": f"{lgp.namespace}:{lgp.name}:"}


def _names(entries: Sequence[JsonObject], variable: str) -> bool:
    return any(entry.get("name") == variable for entry in entries)


def _postgres(lgp: Lgp, config: OperatorConfig) -> list[JsonObject]:
    if custom_postgres(lgp):
        return _uris("$(POSTGRES_URI_CUSTOM)")
    if not makes_postgres(lgp):
        return []
    found = postgres(lgp, config)
    secret = {"secretKeyRef": {"name": found.secret, "key": PASSWORD}}
    host = service_host(found.service, lgp, config)
    uri = f"postgresql://{found.user}:$({PASSWORD})@{host}:{POSTGRES_PORT}/{found.database}?sslmode=disable"
    return [{"name": PASSWORD, "valueFrom": secret}, *_uris(uri)]


def _uris(uri: str) -> list[JsonObject]:
    return [{"name": "POSTGRES_URI", "value": uri}, {"name": "DATABASE_URI", "value": uri}]


def _entry(var: EnvVar) -> JsonObject:
    return {"name": var.name, "value": var.value, "valueFrom": var.value_from}


def _is_set(lgp: Lgp, name: str) -> bool:
    found = [var for var in lgp.spec.server_spec.env if var.name == name]
    return bool(found) and bool(found[-1].value or found[-1].value_from)
