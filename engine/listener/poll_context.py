"""What one poll works with, and what the process remembers between polls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import structlog

from engine.dataplane.events import ResourceRejected
from engine.dataplane.stream import DataPlaneStream
from engine.errors import ConcurrencyConflict, FutureEvent, InvalidResource, SnapshotUnreadable
from engine.event import Event
from engine.listener.config import ListenerConfig
from engine.listener.machine import ListenerMachine
from engine.listener.state import DeploymentState
from engine.log.contract import EventLog
from engine.names import deployment_stream
from engine.ports import ControlPlane, Dispatcher
from engine.runtime.fold import Fold

log = structlog.get_logger(__name__)

ACTOR = "poll"

UNREADABLE = (FutureEvent, SnapshotUnreadable)
"""Errors for which this program cannot fold one stream; the other streams go on."""


@dataclass(slots=True)
class PollMemory:
    """What this process remembers between polls."""

    history: str = ""
    """Of the log; in another history, an equal version is no proof of equal events."""
    digests: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Deployment → content digest, and the version of its stream that needs no event for this content."""
    missed: set[str] = field(default_factory=set)
    """Deployments that answered 404 in the last poll."""
    gone: dict[str, int] = field(default_factory=dict)
    """Deployment → version at which its stream is known to be deleted, being deleted, or not ours."""
    handshake_done: bool = False
    """The control plane's listener and our settings fit."""
    failures: int = 0
    """Failed polls in a row."""
    not_before: datetime | None = None
    """When the control plane may be asked again (UTC)."""

    def enter(self, history: str) -> None:
        """Forget what is known of streams, unless the log is still in the same history."""
        if history != self.history:
            self.history = history
            self.digests.clear()
            self.gone.clear()


class PollOutcome(StrEnum):
    """How a poll ended."""

    POLLED = "polled"
    """The control plane was read."""
    BUSY = "busy"
    """Another worker polls."""
    RESTING = "resting"
    """An earlier poll failed, and the time of the next attempt has not come."""
    FAILED = "failed"
    """The control plane could not be read."""
    REFUSED = "refused"
    """The control plane's listener and our settings do not fit."""
    REMOVING = "removing"
    """The data plane is being removed."""
    OUTDATED = "outdated"
    """A configuration other than this worker's is in force."""


@dataclass(slots=True)
class PollResult:
    """What one poll did."""

    outcome: PollOutcome = PollOutcome.POLLED
    listed: int = 0
    """Deployments for this listener."""
    changed: list[str] = field(default_factory=list)
    """Streams to which events were appended."""
    rejected: int = 0
    """Resources that were skipped."""
    error: str = ""


@dataclass(slots=True, kw_only=True)
class PollContext:
    """What one poll works with, and what it has found so far."""

    control_plane: ControlPlane
    events: EventLog
    own: DataPlaneStream
    dispatcher: Dispatcher
    config: ListenerConfig
    memory: PollMemory
    keep_lock: Callable[[], None]
    """Proves and extends the poll's lock; raises LockLost."""
    versions: dict[str, int]
    """Stream of a deployment → its version when the poll began."""
    result: PollResult
    listed: set[str] = field(default_factory=set)
    """Deployments for this listener."""
    names: set[str] = field(default_factory=set)
    """Display names of the listed resources."""
    deletions: dict[str, list[Event]] = field(default_factory=dict)
    """Deployment → the events that ask for its deletion."""

    def version(self, deployment_id: str) -> int:
        """Return the version of a deployment's stream when the poll began; 0 for no stream."""
        return self.versions.get(deployment_stream(deployment_id), 0)

    def fold(self, deployment_id: str) -> Fold[DeploymentState]:
        """Return the fold of a deployment's stream. Raises FutureEvent, SnapshotUnreadable, LogUnavailable."""
        fold = Fold(ListenerMachine(self.config), self.events, deployment_stream(deployment_id))
        fold.catch_up()
        return fold

    def append(self, fold: Fold[DeploymentState], found: list[Event]) -> bool:
        """Append `found` to the stream as it was folded; return False when the stream has grown since."""
        try:
            self.events.append(fold.stream, fold.version, found, actor=ACTOR)
        except ConcurrencyConflict:
            return False
        log.info("deployment changed", stream=fold.stream, events=[event.type for event in found])
        fold.catch_up()
        self.result.changed.append(fold.stream)
        self.dispatcher.dispatch(fold.stream)
        return True

    def record(self, event: Event) -> None:
        """Append `event` to the data plane's own stream."""
        self.own.append(event, actor=ACTOR)

    def reject(self, error: InvalidResource) -> None:
        """Skip a resource; record what is wrong with it, once."""
        self.result.rejected += 1
        if self.own.known.rejected.get(error.resource) != f"{error.field}: {error.problem}":
            log.error("deployment skipped", resource=error.resource, field=error.field, problem=error.problem)
            self.record(ResourceRejected(resource=error.resource, field=error.field, problem=error.problem))
