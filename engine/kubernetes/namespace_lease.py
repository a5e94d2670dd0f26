"""Namespace leases: the Lease `agentplane` in each watched namespace names the one data plane that may write there.

Two data planes that write to one namespace would undo each other's work forever. So a data plane leases its namespaces
before it writes there, and does not write to a namespace that another data plane holds. A lease is in one of three
states:

    free        the Lease does not exist, or names no holder: the first data plane that writes it holds the namespace
    ours        the Lease names us, whatever its age. It survives restarts; every process of ours renews it
    another's   the Lease names another data plane, whatever its age. No data plane takes it by itself; a person can
                (`agentplane leases take`), once its TTL has passed without a renewal

The API server decides between two data planes that write at once: a Lease is created only once, and a change must carry
the resourceVersion that was read.

A holder writes only while its lease stays fresh for as long as one of its writes can be delayed: the lock of a stream
expires within `lock_seconds`, the lease's TTL is at least twice that, and a lease is renewed after a third of its TTL.
Data planes that share a namespace (`share_namespaces`) hold the lease under one name, SHARED, which keeps other data
planes away. Each of them changes only objects with its own listener's id.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus

from engine.errors import AgentplaneError, ClusterError, ObjectConflict, ObjectRefused
from engine.names import MANAGED_BY, MANAGED_BY_LABEL
from engine.ports import Clock, Cluster, Manifest, ObjectKey

LEASE_API_VERSION = "coordination.k8s.io/v1"
LEASE_KIND = "Lease"
LEASE_NAME = "agentplane"

SHARED = "shared"
"""Holder of a namespace that several data planes share."""
READ_AGAIN = timedelta(seconds=2)
"""Interval at which a process that waits for a namespace reads its lease again."""
TRIES = 5
"""Tries to write a lease before the conflict is raised."""
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class LeaseRefused(AgentplaneError):
    """Another data plane holds the namespace, and its lease has not expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceLease:
    """The parts of a Lease that matter here."""

    namespace: str
    holder: str = ""
    """Name of the data plane; empty for a free namespace."""
    renewed: datetime | None = None
    ttl: timedelta = timedelta()
    transitions: int = 0
    """Number of changes of the holder."""
    resource_version: str = ""
    """Empty if there is no Lease."""

    def expires(self) -> datetime | None:
        """Return when the TTL passes (UTC); None if the lease was never renewed."""
        return None if self.renewed is None else self.renewed + self.ttl

    def expired(self, now: datetime) -> bool:
        ends = self.expires()
        return ends is None or ends <= now


def lease_key(namespace: str) -> ObjectKey:
    return ObjectKey(api_version=LEASE_API_VERSION, kind=LEASE_KIND, namespace=namespace, name=LEASE_NAME)


def parse(namespace: str, manifest: Manifest | None) -> NamespaceLease:
    """Return the lease in the manifest of a Lease. Unreadable times and numbers count as missing."""
    if manifest is None:
        return NamespaceLease(namespace=namespace)
    spec = manifest.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    return NamespaceLease(
        namespace=namespace,
        holder=str(spec.get("holderIdentity") or ""),
        renewed=_time(spec.get("renewTime")),
        ttl=timedelta(seconds=seconds if isinstance(seconds, int) else 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        resource_version=str(manifest["metadata"].get("resourceVersion", "")),
    )


def lease_manifest(lease: NamespaceLease, holder: str, ttl: timedelta, now: datetime) -> Manifest:
    """Return the Lease with which `holder` holds the namespace of `lease` from `now` on, for `ttl`."""
    another = lease.holder != holder
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": round(ttl.total_seconds()),
        "renewTime": now.strftime(_TIME),
        "leaseTransitions": lease.transitions + (1 if another and lease.holder else 0),
    }
    if another:
        spec["acquireTime"] = now.strftime(_TIME)
    key = lease_key(lease.namespace)
    metadata: Manifest = {"name": key.name, "namespace": key.namespace, "labels": {MANAGED_BY_LABEL: MANAGED_BY}}
    if lease.resource_version:
        metadata["resourceVersion"] = lease.resource_version
    return {"apiVersion": key.api_version, "kind": key.kind, "metadata": metadata, "spec": spec}


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value)) if value else None
    except ValueError:
        return None


class NamespaceLeases:
    """The leases of one data plane. Threads can share it; between processes the API server decides."""

    def __init__(self, cluster: Cluster, clock: Clock, holder: str, namespaces: Iterable[str], ttl: timedelta) -> None:
        self.holder = holder
        self.namespaces = tuple(namespaces)
        self._cluster = cluster
        self._clock = clock
        self._ttl = ttl
        self._locks = {namespace: threading.Lock() for namespace in self.namespaces}
        self._renewed: dict[str, datetime] = {}
        """Namespace that we hold → when its lease was renewed last."""
        self._seen: dict[str, tuple[datetime, str | None]] = {}
        """Namespace → when its lease was read last, and the other data plane that held it."""

    def other_holder(self, namespace: str) -> str | None:
        """Return the other data plane that holds `namespace`; None if we hold it, or need no lease there.

        A free namespace is leased, and our lease is renewed when a third of its TTL has passed. Raises
        ClusterUnavailable, or ObjectRefused (a missing permission), if the holder is not known.
        """
        lock = self._locks.get(namespace)
        if lock is None or self._fresh(namespace, self._ttl / 3):
            return None
        with lock:
            if self._fresh(namespace, self._ttl / 3):
                return None
            try:
                return self._renew(namespace)
            except ClusterError:
                if self._fresh(namespace, self._ttl * 2 / 3):
                    return None
                raise

    def seen_holder(self, namespace: str) -> str | None:
        """Return the other data plane that holds `namespace`, without leasing it: for a process that only reads there.

        An answer is used for a third of the TTL, or for READ_AGAIN if another data plane holds the namespace. Raises
        ClusterUnavailable, ObjectRefused.
        """
        lock = self._locks.get(namespace)
        if lock is None:
            return None
        with lock:
            at, holder = self._seen.get(namespace, (None, None))
            if at is None or self._clock.now() - at >= (self._ttl / 3 if holder is None else READ_AGAIN):
                found = self.read(namespace).holder
                holder = None if found in ("", self.holder) else found
                self._seen[namespace] = (self._clock.now(), holder)
            return holder

    def read(self, namespace: str) -> NamespaceLease:
        """Return the lease as it is now. Raises ClusterUnavailable, ObjectRefused."""
        return parse(namespace, self._cluster.get(lease_key(namespace)))

    def take(self, namespace: str) -> NamespaceLease:
        """Take the lease of another data plane if its TTL has passed; return the lease as it was before.

        Raises LeaseRefused, ClusterUnavailable, ObjectRefused.
        """
        for _ in range(TRIES):
            lease, now = self.read(namespace), self._clock.now()
            ends = lease.expires()
            if lease.holder not in ("", self.holder) and ends is not None and ends > now:
                raise LeaseRefused(
                    f"namespace {namespace} is held by {lease.holder!r}, which is alive: its lease expires in "
                    f"{(ends - now).total_seconds():.0f} s. Stop that data plane, and try again after that time"
                )
            if self._write(lease, now):
                return lease
        raise ObjectConflict(f"another process changed the lease on namespace {namespace} in each of {TRIES} tries")

    def release(self, namespace: str) -> bool:
        """Delete the lease if we alone hold it; return whether we did. Raises ClusterUnavailable, ObjectRefused."""
        if self.holder == SHARED:
            return False  # others may work there; a lease that no data plane renews expires
        manifest = self._cluster.get(lease_key(namespace))
        if manifest is None or parse(namespace, manifest).holder != self.holder:
            return False
        self._renewed.pop(namespace, None)
        return self._cluster.delete(lease_key(namespace), uid=manifest["metadata"]["uid"])

    def _fresh(self, namespace: str, age: timedelta) -> bool:
        renewed = self._renewed.get(namespace)
        return renewed is not None and self._clock.now() - renewed < age

    def _renew(self, namespace: str) -> str | None:
        """Write our lease if the namespace is free or ours; otherwise return the other holder."""
        for _ in range(TRIES):
            lease, now = self.read(namespace), self._clock.now()
            if lease.holder not in ("", self.holder):
                self._renewed.pop(namespace, None)
                return lease.holder
            if lease.holder == self.holder and lease.renewed and now - lease.renewed < self._ttl / 3:
                self._renewed[namespace] = lease.renewed  # another process of ours has renewed it
                return None
            try:
                if self._write(lease, now):
                    return None
            except ObjectRefused as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return None  # no such namespace; the act that writes there reports that
                raise
        raise ObjectConflict(f"another process changed the lease on namespace {namespace} in each of {TRIES} tries")

    def _write(self, lease: NamespaceLease, now: datetime) -> bool:
        """Write our lease over `lease`; return False if another process was faster."""
        manifest = lease_manifest(lease, self.holder, self._ttl, now)
        try:
            if lease.resource_version:
                written = self._cluster.patch(lease_key(lease.namespace), manifest) is not None
            else:
                written = self._cluster.create(manifest)
        except ObjectConflict:
            return False
        if written:
            self._renewed[lease.namespace] = now
        return written
