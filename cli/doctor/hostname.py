"""Check of the hostname of Agent Servers: whether it leads anywhere from here."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from cli.doctor.finding import Finding, ok, skip, warn
from engine.control_plane.health import HttpHealth
from engine.settings import Settings, variable


def check_hostname(settings: Settings) -> Iterator[Finding]:
    """Yield whether the hostname answers from here: any HTTP answer will do."""
    routing = settings.routing
    if routing.kind == "none":
        return
    if not routing.hostname:
        name = {"gateway": "gateway_hostname", "istio": "istio_gateway_hostname"}.get(routing.kind, "ingress_hostname")
        yield warn(
            "hostname",
            "no hostname is set: Agent Servers have no URL, and their revisions no health check",
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
        yield skip("hostname", f"{url} does not answer from this pod, which does not matter: the health check is off")
        return
    fix = "correct DNS or the route"
    if settings.health_check_enabled:
        fix = (
            f"the health check of every revision will fail: {fix}, set {variable('health_check_address')} to an "
            f"address at which this process reaches the route, or set {variable('health_check_enabled')}=false"
        )
    yield warn("hostname", f"{url}: {health.detail}", fix)
