"""Checks of what the data plane speaks to besides Kubernetes: Redis, the control plane, LangSmith, the hostname."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis

from cli import sentinel_checks
from cli.findings import Finding, fail, ok, skip, warn
from engine import bootstrap
from engine.control_plane.client import HttpControlPlane
from engine.control_plane.health import HttpHealth
from engine.control_plane.network_policy import may_forbid
from engine.errors import ControlPlaneError, ControlPlaneNotFound, ControlPlaneUnavailable
from engine.listener.poll import configuration_mismatch
from engine.log.redis import connect
from engine.log.sentinels import Sentinels
from engine.settings import REGIONS, Settings, variable

OLDEST_REDIS = (6, 2)
FULL = 0.9
"""Share of Redis' memory limit from which on it is worth a warning."""
PATIENCE = 5.0
"""Seconds for one answer of LangSmith."""

LISTENERS_OFF = (
    "a self-hosted LangSmith serves listeners only where they are switched on: enable_lgp_listeners_page for the "
    "organization and langgraph_remote_reconciler_enabled for the workspace, each true in the column `config` of its "
    "row in LangSmith's Postgres (tables organizations and tenants)"
)

# --- Redis


def check_redis(settings: Settings) -> Iterator[Finding]:
    """The way to it, version, persistence, and that it never forgets."""
    name, place = variable("redis_url"), settings.redis_display
    mend = f"start it, or correct {name}"
    where = settings.redis
    if isinstance(where, Sentinels):
        master, findings = sentinel_checks.judge(where, sentinel_checks.ask(where))
        yield from findings
        if not master:
            return
        place = f"{where.master} at {master}"
        mend = f"make {master}, which the Sentinels name, lead there from here too; or correct the password in {name}"
    try:
        client = connect(where, attempts=1)
        told: Any = client.info()
    except (redis.RedisError, OSError, ValueError) as error:
        forbidden = may_forbid(error, settings.network_policy, "networkPolicy.extraPorts")
        yield fail("redis", f"{place}: {error}{forbidden}", mend)
        return
    version = str(told.get("valkey_version") or told["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        yield fail("redis", f"version {version}", f"use Redis or Valkey {'.'.join(map(str, OLDEST_REDIS))} or newer")
    elif told.get("role") in ("slave", "replica"):
        yield fail("redis", f"{place} is a read-only replica", f"name the primary in {name}")
    else:
        yield ok("redis", f"{place}, version {version}")
    yield from _persistence(told)
    yield from _memory(told)
    if isinstance(where, Sentinels):
        yield from sentinel_checks.check_replicas(told)


def _persistence(told: dict[str, Any]) -> Iterator[Finding]:
    if told.get("aof_last_write_status", "ok") != "ok":
        yield fail("redis persistence", "the append-only file cannot be written", "make room on Redis' disk")
    elif told.get("aof_enabled"):
        yield ok("redis persistence", "append-only file")
    else:
        yield warn(
            "redis persistence",
            "append-only persistence is off: a restart loses the event log",
            "set `appendonly yes` (managed Redis: switch persistence on), and export the log regularly",
        )


def _memory(told: dict[str, Any]) -> Iterator[Finding]:
    policy = told.get("maxmemory_policy", "unknown")
    used, limit = int(told.get("used_memory", 0)), int(told.get("maxmemory", 0))
    if policy != "noeviction":
        yield fail(
            "redis memory",
            f"maxmemory-policy is {policy}: events would be evicted",
            "set it to noeviction: `CONFIG SET maxmemory-policy noeviction`, and in Redis' configuration",
        )
    elif limit and used > FULL * limit:
        yield warn(
            "redis memory", f"{used / limit:.0%} of maxmemory is in use", "raise maxmemory, or archive old events"
        )
    else:
        yield ok("redis memory", f"never evicts; {used >> 20} MiB in use")


# --- control plane


def check_control_plane(settings: Settings) -> Iterator[Finding]:
    """Both URLs, key, workspace, listener and namespaces."""
    if not settings.listener_enabled:
        return
    control_plane = HttpControlPlane.from_settings(settings)
    try:
        first = next(iter(control_plane.deployments()), [])
        yield ok("control plane", f"{settings.host_backend_url}: key and workspace are accepted ({len(first)} listed)")
        yield from _listener(control_plane, settings)
    finally:
        control_plane.close()


def _listener(control_plane: HttpControlPlane, settings: Settings) -> Iterator[Finding]:
    """Whether the control plane has our listener, for our namespaces."""
    hosted = settings.host_backend_url in {host for host, _ in REGIONS.values()}
    try:
        control_plane.listener(str(settings.listener_id))
        refused, mend = "", ""
    except ControlPlaneNotFound:
        refused, mend = "", "" if hosted else LISTENERS_OFF
    except ControlPlaneUnavailable:
        raise
    except ControlPlaneError as error:
        refused, mend = str(error), "" if hosted else LISTENERS_OFF
    problem = refused or configuration_mismatch(control_plane, bootstrap.listener_config(settings))
    if problem:
        yield fail("listener", problem, mend)
    else:
        yield ok("listener", f"{settings.listener_id} for namespaces {', '.join(settings.watch_namespaces)}")


def check_smith(settings: Settings) -> Iterator[Finding]:
    """The LangSmith API, which Agent Servers trace to and ask who may call them."""
    if not settings.listener_enabled:
        return
    url = f"{settings.smith_backend_url}/info"
    problem = _not_langsmith(url, settings)
    if problem:
        yield warn(
            "langsmith",
            f"{url}: {problem}",
            f"correct {variable('smith_backend_url')}, or open the way to it: Agent Servers send traces there, and ask "
            "there who may call them",
        )
    else:
        yield ok("langsmith", settings.smith_backend_url)


def _not_langsmith(url: str, settings: Settings) -> str:
    """Return why no LangSmith answers at `url`, empty when one does."""
    ca_file = settings.control_plane_ca_file
    try:
        verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        answer = httpx.get(url, verify=verify, timeout=PATIENCE)
        known = answer.status_code == 200 and isinstance(answer.json(), dict)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        forbidden = may_forbid(error, settings.network_policy, "networkPolicy.extraPorts")
        return f"no answer: {str(error) or type(error).__name__}{forbidden}"
    except ValueError:
        known = False
    return "" if known else f"{answer.status_code}, not the answer of a LangSmith API"


# --- the hostname


def check_hostname(settings: Settings) -> Iterator[Finding]:
    """Whether the hostname of Agent Servers leads anywhere from here: any HTTP answer will do."""
    routing = settings.routing
    if routing.kind == "none":
        return
    if not routing.hostname:
        name = {"gateway": "gateway_hostname", "istio": "istio_gateway_hostname"}.get(routing.kind, "ingress_hostname")
        yield warn(
            "hostname",
            "none is set: nobody reaches Agent Servers through the route, and there is no health check",
            f"set {variable(name)}",
        )
        return
    url = f"{'https' if routing.tls else 'http'}://{routing.hostname.replace('*', 'doctor')}{routing.base_path}/"
    health = HttpHealth.from_settings(settings).check(url)
    if not health.detail.startswith("no answer"):
        through = f" through {settings.health_check_address}" if settings.health_check_address else ""
        yield ok("hostname", f"{urlsplit(url).netloc} answers{through}")
        return
    if settings.process and not settings.health_check_enabled:
        yield skip("hostname", f"{url} does not answer in here, where nothing asks it: there is no health check")
        return
    mend = "mend DNS or the route"
    if settings.health_check_enabled:
        mend = (
            f"the health check of every revision will fail: {mend}, set {variable('health_check_address')} to where "
            f"the route can be reached from here, or {variable('health_check_enabled')}=false"
        )
    yield warn("hostname", f"{url}: {health.detail}", mend)
