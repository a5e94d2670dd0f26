"""The namespace leases of a data plane, recorded in its own stream: its namespaces, and the holders of the others.

When a namespace becomes ours, the streams whose acts write to it are made dirty before NamespaceLeased is appended. So
a crash in between makes them dirty once more, and no stream is left waiting for the namespace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import structlog

from engine.dataplane.events import NamespaceLeased, NamespaceLeft, NamespaceRefused
from engine.dataplane.stream import DataPlaneStream
from engine.errors import ClusterError
from engine.kubernetes.namespace_lease import NamespaceLeases
from engine.log.contract import EventLog
from engine.names import lgp_stream

log = structlog.get_logger(__name__)


def renew_leases(leases: NamespaceLeases, own: DataPlaneStream, events: EventLog, prefixes: Collection[str]) -> None:
    """Renew the leases on the watched namespaces; record in `own` which are ours and which another data plane holds.

    `prefixes` are those of the streams of the components that run here. A namespace whose lease Kubernetes refuses is
    logged and skipped; the acts that write there meet the same refusal. A data plane that is being removed renews no
    lease. Raises FutureEvent, LogUnavailable.
    """
    state = own.state()
    if state.removing:
        return
    known = state.leases
    for namespace in leases.namespaces:
        try:
            other = leases.other_holder(namespace)
        except ClusterError as error:
            log.warning("namespace not leased", namespace=namespace, reason=str(error))
            continue
        if known.get(namespace) == (other or ""):
            continue
        if other is None:
            for stream in streams_of_namespace(events, namespace, prefixes):
                events.mark_dirty(stream)
            own.append(NamespaceLeased(namespace=namespace))
            log.info("namespace leased", namespace=namespace, holder=leases.holder)
        else:
            own.append(NamespaceRefused(namespace=namespace, holder=other))
            log.error("namespace refused", namespace=namespace, holder=other)
    for namespace in sorted(known.keys() - set(leases.namespaces)):
        own.append(NamespaceLeft(namespace=namespace))


def streams_of_namespace(events: EventLog, namespace: str, prefixes: Collection[str]) -> Iterator[str]:
    """Yield the streams whose acts may write to `namespace`: its LGPs, and all deployments."""
    lgps = lgp_stream(namespace, "")
    for prefix in prefixes:
        yield from events.streams(lgps if lgps.startswith(prefix) else prefix)
