"""`agentplane doctor`: is everything there that the data plane needs? Each line ok, warn or fail, with the mend.

A check is a function from the settings to findings. What it raises as an engine error is its failure: those messages
name the thing and the mend already.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

import redis
from rich.text import Text

from cli.output import FAILED, console, json_line
from engine import bootstrap
from engine.adapters.control_plane import HttpControlPlane
from engine.adapters.health import HttpHealth
from engine.errors import AgentplaneError, SettingsError
from engine.listener.poll import misfit
from engine.log.redis import connect
from engine.names import LGP_API_VERSION, LGP_KIND, SHARED_INGRESS_ANNOTATION
from engine.ports import Cluster
from engine.settings import Settings

OLDEST_REDIS = (6, 2)


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor."""

    level: Level
    subject: str
    detail: str
    mend: str = ""


def ok(subject: str, detail: str) -> Finding:
    return Finding(level=Level.OK, subject=subject, detail=detail)


def warn(subject: str, detail: str, mend: str) -> Finding:
    return Finding(level=Level.WARN, subject=subject, detail=detail, mend=mend)


def fail(subject: str, detail: str, mend: str = "") -> Finding:
    return Finding(level=Level.FAIL, subject=subject, detail=detail, mend=mend)


def doctor(*, json: bool) -> int:
    """Run every check and print what it finds; return the exit code."""
    worst = Level.OK
    for finding in examine():
        if json:
            json_line(asdict(finding))
        else:
            _print(finding)
        worst = Level.FAIL if finding.level is Level.FAIL else worst
    return FAILED if worst is Level.FAIL else 0


def _print(finding: Finding) -> None:
    line = Text.assemble((f"{finding.level:<5}", STYLES[finding.level]), f"{finding.subject}: {finding.detail}")
    if finding.mend:
        line.append(f"\n     → {finding.mend}", style="bold")
    console.print(line, soft_wrap=True)


def examine() -> Iterator[Finding]:
    """Yield what every check finds, in an order in which causes come before their consequences."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        for line in str(error).splitlines():
            yield fail("settings", line)
        return
    given = sum(described.given for described in settings.describe())
    yield ok("settings", f"{given} given, the rest at their defaults")
    for subject, check in CHECKS:
        try:
            yield from check(settings)
        except AgentplaneError as error:
            yield fail(subject, str(error))
        except (redis.RedisError, OSError) as error:
            yield fail(subject, f"{type(error).__name__}: {error}")


# --- Redis


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Version, persistence, and that it never forgets."""
    try:
        client = connect(settings.redis_url.get_secret_value(), attempts=1)
        told = client.info()
        assert isinstance(told, dict)
    except (redis.RedisError, OSError) as error:
        yield fail(
            "redis", f"{settings.redis_display}: {type(error).__name__}", "start it, or correct AGENTPLANE_REDIS_URL"
        )
        return
    version = str(told.get("valkey_version") or told["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        yield fail("redis", f"version {version}", f"use Redis or Valkey {'.'.join(map(str, OLDEST_REDIS))} or newer")
    else:
        yield ok("redis", f"{settings.redis_display}, version {version}")
    if not told.get("aof_enabled"):
        yield warn(
            "redis persistence",
            "append-only persistence is off: a restart loses the event log",
            "set `appendonly yes` (managed Redis: switch persistence on), and export the log regularly",
        )
    else:
        yield ok("redis persistence", "append-only file")
    policy = told.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        yield fail("redis memory", f"maxmemory-policy is {policy}: events would be evicted", "set it to noeviction")


# --- control plane


def check_control_plane(settings: Settings) -> Iterator[Finding]:
    """Both URLs, key, workspace, listener and namespaces."""
    if not settings.listener_enabled:
        return
    control_plane = HttpControlPlane.from_settings(settings)
    try:
        first = next(iter(control_plane.deployments()), [])
        yield ok("control plane", f"{settings.host_backend_url}: key and workspace are accepted ({len(first)} listed)")
        problem = misfit(control_plane, bootstrap.listener_config(settings))
        if problem is not None:
            yield fail("listener", problem)
        else:
            yield ok("listener", f"{settings.listener_id} for namespaces {', '.join(settings.watch_namespaces)}")
    finally:
        control_plane.close()


def check_smith(settings: Settings) -> Iterator[Finding]:
    """The LangSmith API that Agent Servers trace to."""
    if not settings.listener_enabled:
        return
    health = HttpHealth.from_settings(settings).check(f"{settings.smith_backend_url}/info")
    if "200" in health.detail or health.ok:
        yield ok("langsmith", settings.smith_backend_url)
    else:
        yield warn(
            "langsmith",
            f"{settings.smith_backend_url}/info: {health.detail}",
            "correct AGENTPLANE_SMITH_BACKEND_URL, or open the way to it; Agent Servers trace to it",
        )


# --- cluster


def check_cluster(settings: Settings) -> Iterator[Finding]:
    """The API server, the LGP resource, permissions and the shared Ingress, per namespace."""
    cluster = bootstrap.open_cluster(settings)
    if not cluster.served(LGP_API_VERSION, LGP_KIND):
        yield fail(
            "lgp resource",
            f"{cluster.host} does not serve {LGP_KIND} {LGP_API_VERSION}",
            "install it: kubectl apply -f k8s/crds (the chart: operator.createCRDs: true)",
        )
        return
    yield ok("lgp resource", f"{cluster.host} serves {LGP_KIND} {LGP_API_VERSION}")
    if not settings.watch_namespaces:
        yield fail("namespaces", "none to watch", "set AGENTPLANE_WATCH_NAMESPACES")
    for namespace in settings.watch_namespaces:
        yield from _permissions(cluster, settings, namespace)
        yield from _ingress(cluster, settings, namespace)


NEEDED: tuple[tuple[bool, bool, str, str, str], ...] = (
    (True, True, LGP_API_VERSION, LGP_KIND, "get list watch"),
    (True, False, LGP_API_VERSION, LGP_KIND, "create patch delete"),
    (True, False, "v1", "Secret", "get list watch create patch delete deletecollection"),
    (False, True, "apps/v1", "Deployment", "get list watch create patch delete"),
    (False, True, "apps/v1", "StatefulSet", "get list watch create patch delete"),
    (False, True, "v1", "Service", "get list watch create patch delete"),
    (False, True, "v1", "Secret", "get create"),
    (False, True, "v1", "PersistentVolumeClaim", "list delete"),
    (False, True, "v1", "Pod", "list watch"),
)
"""Needed by the listener, by the operator; kind; verbs."""


def _permissions(cluster: Cluster, settings: Settings, namespace: str) -> Iterator[Finding]:
    missing = [
        f"{verb} {kind}"
        for for_listener, for_operator, api_version, kind, verbs in NEEDED
        if (for_listener and settings.listener_enabled) or (for_operator and settings.operator_enabled)
        for verb in verbs.split()
        if not cluster.allowed(verb, api_version, kind, namespace)
    ]
    if missing:
        yield fail("permissions", f"namespace {namespace}: not allowed: {', '.join(missing)}", "extend its Role")
    else:
        yield ok("permissions", f"namespace {namespace}")


def _ingress(cluster: Cluster, settings: Settings, namespace: str) -> Iterator[Finding]:
    if settings.routing.kind != "ingress" or not settings.operator_enabled:
        return
    home = settings.ingress_namespace or namespace
    found = [
        ingress["metadata"]["name"]
        for ingress in cluster.list("networking.k8s.io/v1", "Ingress", home)
        if ingress["metadata"].get("annotations", {}).get(SHARED_INGRESS_ANNOTATION) == "true"
    ]
    if len(found) == 1:
        yield ok("shared ingress", f"{home}/{found[0]}")
    else:
        yield fail(
            "shared ingress",
            f'namespace {home} has {len(found)} Ingresses annotated {SHARED_INGRESS_ANNOTATION}: "true"',
            "annotate exactly one (the chart: ingress.create: true)",
        )


# --- the hostname


def check_hostname(settings: Settings) -> Iterator[Finding]:
    """Whether the hostname of Agent Servers leads anywhere from here."""
    if settings.routing.kind == "none":
        return
    hostname = settings.routing.hostname
    if not hostname:
        yield warn(
            "hostname",
            "none is set: nobody reaches Agent Servers through the route, and there is no health check",
            f"set AGENTPLANE_{settings.routing.kind.upper()}_HOSTNAME",
        )
        return
    host, _, port = hostname.partition(":")
    try:
        address = settings.health_check_address or f"{host}:{port or (443 if settings.routing.tls else 80)}"
        to, _, at = address.rpartition(":")
        with socket.create_connection((to, int(at)), timeout=5):
            pass
    except OSError as error:
        yield warn(
            "hostname",
            f"{hostname} cannot be reached from here: {error}",
            "the health check of every revision would fail: mend DNS or the route, set "
            "AGENTPLANE_HEALTH_CHECK_ADDRESS, or AGENTPLANE_HEALTH_CHECK_ENABLED=false",
        )
        return
    yield ok("hostname", f"{hostname} answers")


Check = Callable[[Settings], Iterator[Finding]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("redis", check_redis),
    ("control plane", check_control_plane),
    ("langsmith", check_smith),
    ("cluster", check_cluster),
    ("hostname", check_hostname),
)
