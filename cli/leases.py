"""`agentplane leases`: which data plane each watched namespace belongs to; taking one over, giving them back."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from cli.log import settings as log_settings
from cli.output import FAILED, age, console, json_line, table
from engine import bootstrap
from engine.kubernetes.namespace_lease import SHARED, LeaseRefused, NamespaceLease, NamespaceLeases

HEADINGS = ("NAMESPACE", "HOLDER", "RENEWED", "")


def show(*, json: bool) -> int:
    """Print the leases on the watched namespaces; return 1 where one is another data plane's."""
    leases = _claims()
    now = datetime.now(UTC)
    found = [leases.read(namespace) for namespace in leases.namespaces]
    if json:
        for lease in found:
            renewed = lease.renewed.isoformat() if lease.renewed else None
            ours = lease.holder == leases.holder
            json_line({"namespace": lease.namespace, "holder": lease.holder, "renewed": renewed, "ours": ours})
    else:
        table(
            HEADINGS,
            [(lease.namespace, lease.holder or "-", _age(lease), _told(lease, leases, now)) for lease in found],
        )
    return FAILED if any(lease.holder not in ("", leases.holder) for lease in found) else 0


def _age(lease: NamespaceLease) -> str:
    return f"{age(lease.renewed)} ago" if lease.renewed else "-"


def _told(lease: NamespaceLease, leases: NamespaceLeases, now: datetime) -> Text:
    if not lease.holder:
        return Text("nobody's: the first data plane that writes there leases it")
    if lease.holder == leases.holder:
        return Text("ours" if not lease.expired(now) else "ours, not renewed: is a worker alive?")
    taking = f"; its TTL has passed: `agentplane leases take {lease.namespace}`" if lease.expired(now) else ""
    return Text(f"another data plane's{taking}", style="red")


def take(namespace: str) -> None:
    """Take a namespace over from a data plane that is dead. Raises LeaseRefused, SettingsError, ClusterError."""
    leases = _claims()
    _watched(leases, namespace)
    before = leases.take(namespace)
    if before.holder in ("", leases.holder):
        console.print(f"namespace {namespace} is ours")
    else:
        console.print(f"namespace {namespace} is ours now; it was held by {before.holder!r}")


def release(namespace: str | None) -> None:
    """Give the lease on one namespace back, or on all that are watched, where it is ours."""
    leases = _claims()
    if namespace is not None:
        _watched(leases, namespace)
    kept = "is shared: its lease ends when nobody renews it" if leases.holder == SHARED else "was not ours"
    for each in leases.namespaces if namespace is None else (namespace,):
        told = "is nobody's now" if leases.release(each) else kept
        console.print(f"namespace {each} {told}")


def _claims() -> NamespaceLeases:
    settings = log_settings()
    return bootstrap.leases_of(settings, bootstrap.open_cluster(settings))


def _watched(leases: NamespaceLeases, namespace: str) -> None:
    if namespace not in leases.namespaces:
        watched = ", ".join(leases.namespaces)
        raise LeaseRefused(f"namespace {namespace!r} is not among the watched ones ({watched})")
