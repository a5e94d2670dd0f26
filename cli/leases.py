"""`agentplane leases`: shows which data plane holds each watched namespace, takes a lease, releases leases."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from cli.log import settings as log_settings
from cli.output import FAILED, age, console, json_line, table
from engine import bootstrap
from engine.kubernetes.namespace_lease import SHARED, LeaseRefused, NamespaceLease, NamespaceLeases

HEADINGS = ("NAMESPACE", "HOLDER", "RENEWED", "STATUS")


def show(*, json: bool) -> int:
    """Print the leases on the watched namespaces; return 1 if another data plane holds one of them."""
    leases = _leases()
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
            [(lease.namespace, lease.holder or "-", _age(lease), _status(lease, leases, now)) for lease in found],
        )
    return FAILED if any(lease.holder not in ("", leases.holder) for lease in found) else 0


def _age(lease: NamespaceLease) -> str:
    return f"{age(lease.renewed)} ago" if lease.renewed else "-"


def _status(lease: NamespaceLease, leases: NamespaceLeases, now: datetime) -> Text:
    if not lease.holder:
        return Text("free: the first data plane that writes there takes the lease")
    if lease.holder == leases.holder:
        return Text("held by this data plane" + (", but not renewed: check its workers" if lease.expired(now) else ""))
    taking = f"; the lease has expired: `agentplane leases take {lease.namespace}`" if lease.expired(now) else ""
    return Text(f"held by another data plane{taking}", style="red")


def take(namespace: str) -> None:
    """Take the lease on a namespace from a data plane that is gone.

    Raises LeaseRefused if that data plane is alive or the namespace is not watched, SettingsError, ClusterError.
    """
    leases = _leases()
    _refuse_unwatched(leases, namespace)
    before = leases.take(namespace)
    if before.holder in ("", leases.holder):
        console.print(f"this data plane holds namespace {namespace}")
    else:
        console.print(f"this data plane now holds namespace {namespace}; the holder before was {before.holder!r}")


def release(namespace: str | None) -> None:
    """Release the lease on one namespace, or on all that are watched, where this data plane holds it."""
    leases = _leases()
    if namespace is not None:
        _refuse_unwatched(leases, namespace)
    kept = "is shared: its lease expires when no data plane renews it" if leases.holder == SHARED else "is not ours"
    for each in leases.namespaces if namespace is None else (namespace,):
        result = "is released" if leases.release(each) else kept
        console.print(f"namespace {each} {result}")


def _leases() -> NamespaceLeases:
    settings = log_settings()
    return bootstrap.leases_of(settings, bootstrap.open_cluster(settings))


def _refuse_unwatched(leases: NamespaceLeases, namespace: str) -> None:
    if namespace not in leases.namespaces:
        watched = ", ".join(leases.namespaces)
        raise LeaseRefused(f"namespace {namespace!r} is not watched; the watched namespaces are: {watched}")
