"""What an act of the operator works with, and the result of applying one object.

Every write goes through `Context.apply` or calls `Ports.keep_lock` first, which proves that the stream's lock is
still held.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

from engine import names
from engine.kubernetes.fingerprint import Fingerprint
from engine.operator.config import OperatorConfig
from engine.operator.observation.objects import own_fingerprint
from engine.operator.plan import Plan
from engine.operator.state import ObservedLgp, OperatorState
from engine.ports import Applied, Cluster, Manifest, Ports


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyResult:
    """What applying one object left in the cluster."""

    fingerprint: Fingerprint
    created: bool
    """The object did not exist before."""

    @classmethod
    def of(cls, applied: Applied) -> ApplyResult:
        """Return the result of a server-side apply."""
        return cls(fingerprint=own_fingerprint(applied.manifest), created=applied.created)

    @classmethod
    def existing(cls, uid: str) -> ApplyResult:
        """Return the result for an object of which only the existence counts. Empty `uid`: the uid is not known."""
        return cls(fingerprint=Fingerprint(uid=uid, generation=0, fields=""), created=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One LGP, what it asks for, and the means to act for it."""

    state: OperatorState
    lgp: ObservedLgp
    """The LGP as last observed (`state.lgp`, which an act needs)."""
    plan: Plan
    """What the LGP asks for."""
    ports: Ports
    config: OperatorConfig

    @property
    def cluster(self) -> Cluster:
        return self.ports.cluster

    def apply(self, manifest: Manifest, already_read: Manifest | EllipsisType | None = ...) -> Applied:
        """Apply `manifest` under the operator's field manager. Raises what `Cluster.apply` raises.

        `already_read` is the live object if the caller has just read it, None if the caller found none; it spares a
        read.
        """
        return self.cluster.apply(
            manifest, manager=names.OPERATOR_MANAGER, before_write=self.ports.keep_lock, seen=already_read
        )
