"""Checks of Redis, which holds the event log: connection, version, persistence, and that it never evicts events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import redis

from cli.doctor import sentinels
from cli.doctor.finding import Finding, fail, ok, warn
from cli.log import redis_fix
from engine.control_plane.network_policy import may_forbid
from engine.event import Json
from engine.log.redis import connect
from engine.log.sentinels import Sentinels
from engine.settings import Settings, variable

OLDEST_REDIS = (6, 2)
"""The oldest version that is supported, of Redis and of Valkey."""
FULL = 0.9
"""Share of Redis' memory limit from which on the doctor warns."""

Info = Mapping[str, Json]
"""What Redis answers to INFO."""


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Yield what there is to say of the connection, the version, persistence and memory."""
    name, place = variable("redis_url"), settings.redis_display
    fix = redis_fix(settings)
    where = settings.redis
    if isinstance(where, Sentinels):
        master, findings = sentinels.judge(where, sentinels.ask(where))
        yield from findings
        if not master:
            return
        place = f"{where.master} at {master}"
        fix = (
            f"make {master}, which the Sentinels report as the master, reachable from here too; or correct the "
            f"password in {name}"
        )
    try:
        client = connect(where, attempts=1)
        info: Info = client.info()
    except (redis.RedisError, OSError, ValueError) as error:
        forbidden = may_forbid(error, settings.network_policy, "networkPolicy.extraPorts")
        yield fail("redis", f"cannot connect to {place}: {error}{forbidden}", fix)
        return
    oldest = ".".join(map(str, OLDEST_REDIS))
    version = str(info.get("valkey_version") or info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        yield fail("redis", f"{place} is version {version}, which is too old", f"use Redis or Valkey {oldest} or newer")
    elif info.get("role") in ("slave", "replica"):
        yield fail("redis", f"{place} is a read-only replica", f"set {name} to the primary")
    else:
        yield ok("redis", f"{place}, version {version}")
    yield from _persistence(info)
    yield from _memory(info)
    if isinstance(where, Sentinels):
        yield from sentinels.check_replicas(info)


def _persistence(info: Info) -> Iterator[Finding]:
    if info.get("aof_last_write_status", "ok") != "ok":
        yield fail("redis persistence", "Redis cannot write its append-only file", "free space on the disk of Redis")
    elif info.get("aof_enabled"):
        yield ok("redis persistence", "the append-only file is on")
    else:
        yield warn(
            "redis persistence",
            "append-only persistence is off: a restart of Redis loses the event log",
            "set `appendonly yes` (managed Redis: switch persistence on), and export the log regularly",
        )


def _memory(info: Info) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "unknown")
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if policy != "noeviction":
        yield fail(
            "redis memory",
            f"maxmemory-policy is {policy}: Redis evicts events when its memory is full",
            "set noeviction: `CONFIG SET maxmemory-policy noeviction`, and the same in the configuration of Redis",
        )
    elif limit and used > FULL * limit:
        yield warn(
            "redis memory",
            f"{used / limit:.0%} of maxmemory is in use",
            "raise maxmemory, or move old events out of the log: `agentplane archive`",
        )
    else:
        yield ok("redis memory", f"maxmemory-policy is noeviction; {used >> 20} MiB in use")
