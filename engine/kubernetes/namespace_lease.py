"""Who a namespace belongs to: a Lease in each watched namespace that names one data plane.

Two data planes that write to one namespace would undo each other's work for ever. So each leases its namespaces before
it writes anything there, and keeps off those that another holds. A lease is the Lease `agentplane`:

    nobody's    it does not exist, or names no holder: the first to write it has it
    ours        it names us, whatever its age: it survives restarts, and is renewed while any process of ours works
    another's   it names somebody else, however old it is. Nobody takes it silently; a person may (`agentplane leases
                take`), once its term has passed without a renewal

The API server decides between two who write at once: a Lease is created once, and changed only as it was read.

A holder acts as long as it knows its lease to be fresh for the longest time that a write of ours can be late: locks of
streams run out within `lock_seconds`, the term is at least twice that, and a lease is renewed when a third of it has
gone. Data planes that agree to share a namespace (`share_namespaces`) hold the lease in one name, SHARED, which keeps
others away; each then only touches what carries its own listener's id.
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
"""Holder of a namespace that several data planes agree to share."""
LOOK_AGAIN = timedelta(seconds=2)
"""Between two looks of those who wait for another data plane to give a namespace up."""
TRIES = 5
"""Reads and writes of a lease before a conflict is given back."""
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class LeaseRefused(AgentplaneError):
    """The namespace is another data plane's, and stays so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceLease:
    """A Lease, as far as it matters."""

    namespace: str
    holder: str = ""
    """Empty: nobody's."""
    renewed: datetime | None = None
    ttl: timedelta = timedelta()
    transitions: int = 0
    """Times that it went to another holder."""
    resource_version: str = ""
    """Empty: there is no Lease."""

    def expires(self) -> datetime | None:
        """Return when its ttl ends, None when nobody ever renewed it."""
        return None if self.renewed is None else self.renewed + self.ttl

    def expired(self, now: datetime) -> bool:
        ends = self.expires()
        return ends is None or ends <= now


def lease_key(namespace: str) -> ObjectKey:
    return ObjectKey(api_version=LEASE_API_VERSION, kind=LEASE_KIND, namespace=namespace, name=LEASE_NAME)


def parse(namespace: str, manifest: Manifest | None) -> NamespaceLease:
    """Return the lease that a Lease stands for; times and numbers that cannot be read count as absent."""
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
    """Return the Lease with which `holder` holds the namespace of `lease` from now on."""
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
    """The leases of one data plane; safe to share between threads, and between processes by the API server."""

    def __init__(self, cluster: Cluster, clock: Clock, holder: str, namespaces: Iterable[str], ttl: timedelta) -> None:
        self.holder = holder
        self.namespaces = tuple(namespaces)
        self._cluster = cluster
        self._clock = clock
        self._ttl = ttl
        self._locks = {namespace: threading.Lock() for namespace in self.namespaces}
        self._renewed: dict[str, datetime] = {}
        """Namespace of ours → when its lease was renewed last."""
        self._seen: dict[str, tuple[datetime, str | None]] = {}
        """Namespace → when it was looked at last, and who else had it."""

    def other_holder(self, namespace: str) -> str | None:
        """Return who else holds `namespace`; None when we do, from now on if it was nobody's, or need no lease there.

        Raises ClusterUnavailable, ObjectRefused (no permission) when nobody can tell.
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
        """Return who else holds `namespace`, without claiming it: for a process that only looks.

        What was read is believed for a third of the ttl; that another holds it, for LOOK_AGAIN. Raises
        ClusterUnavailable, ObjectRefused.
        """
        lock = self._locks.get(namespace)
        if lock is None:
            return None
        with lock:
            at, holder = self._seen.get(namespace, (None, None))
            if at is None or self._clock.now() - at >= (self._ttl / 3 if holder is None else LOOK_AGAIN):
                found = self.read(namespace).holder
                holder = None if found in ("", self.holder) else found
                self._seen[namespace] = (self._clock.now(), holder)
            return holder

    def read(self, namespace: str) -> NamespaceLease:
        """Return the lease as it is now. Raises ClusterUnavailable, ObjectRefused."""
        return parse(namespace, self._cluster.get(lease_key(namespace)))

    def take(self, namespace: str) -> NamespaceLease:
        """Make the lease ours although another's, if its ttl has passed; return what it was.

        Raises LeaseRefused, ClusterUnavailable, ObjectRefused.
        """
        for _ in range(TRIES):
            lease, now = self.read(namespace), self._clock.now()
            ends = lease.expires()
            if lease.holder not in ("", self.holder) and ends is not None and ends > now:
                raise LeaseRefused(
                    f"namespace {namespace} is held by {lease.holder!r}, which is alive: its lease was renewed for "
                    f"{(ends - now).total_seconds():.0f} s more. Stop it, and try again then"
                )
            if self._write(lease, now):
                return lease
        raise ObjectConflict(f"the lease on namespace {namespace} was changed by others in each of {TRIES} tries")

    def release(self, namespace: str) -> bool:
        """Give the lease up, if it is ours alone; return whether it was. Raises ClusterUnavailable, ObjectRefused."""
        if self.holder == SHARED:
            return False  # others may work there; the lease ends by itself when nobody renews it
        manifest = self._cluster.get(lease_key(namespace))
        if manifest is None or parse(namespace, manifest).holder != self.holder:
            return False
        self._renewed.pop(namespace, None)
        return self._cluster.delete(lease_key(namespace), uid=manifest["metadata"]["uid"])

    def _fresh(self, namespace: str, age: timedelta) -> bool:
        renewed = self._renewed.get(namespace)
        return renewed is not None and self._clock.now() - renewed < age

    def _renew(self, namespace: str) -> str | None:
        """Lease or renew; return who else holds it."""
        for _ in range(TRIES):
            lease, now = self.read(namespace), self._clock.now()
            if lease.holder not in ("", self.holder):
                self._renewed.pop(namespace, None)
                return lease.holder
            if lease.holder == self.holder and lease.renewed and now - lease.renewed < self._ttl / 3:
                self._renewed[namespace] = lease.renewed  # another process of ours was faster
                return None
            try:
                if self._write(lease, now):
                    return None
            except ObjectRefused as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return None  # no such namespace: nobody can write there, and the act will say so
                raise
        raise ObjectConflict(f"the lease on namespace {namespace} was changed by others in each of {TRIES} tries")

    def _write(self, lease: NamespaceLease, now: datetime) -> bool:
        """Write our lease in place of `lease`; return whether nobody was faster."""
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
