"""One poll of the control plane: every page, compared by digest, and what changed as events.

Theory of operation. The list is read in full, undecoded. A resource that is not addressed to this listener and this
workspace is never touched. For the others a keyed digest decides: unchanged ones cost nothing more. A changed one is
parsed, compared with the folded stream (the log, not memory, is the truth), and what is new is appended. One that
cannot be parsed is reported once, by the path of its field, and skipped.

Absence from the list proves nothing (offset paging skips items when another is deleted between two pages). A stream
whose deployment was not listed is asked for by its own URL; only a 404 in two polls running asks for its deletion. When
more deletions come at once than the set share, all of them wait for a person (`DeletionGuardTripped`).

A failing control plane is left alone for a growing time, and for as long as it asked; the log has the two edges only.

`PollMemory` is a cache in the worker's process: losing it, or running several workers, costs reads only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog

from engine import engine_events as ee
from engine.errors import (
    ConcurrencyConflict,
    ControlPlaneDenied,
    ControlPlaneError,
    ControlPlaneNotFound,
    InvalidResource,
    LockHeld,
    LockLost,
)
from engine.event import Event, Json
from engine.folding import Fold
from engine.keeping import held
from engine.listener import events as e
from engine.listener import resource as r
from engine.listener.config import ListenerConfig
from engine.listener.machine import ListenerMachine
from engine.listener.state import DeploymentState
from engine.log.contract import EventLog
from engine.names import deployment_stream, engine_stream
from engine.ports import Clock, ControlPlane, Dispatcher
from engine.retry import Backoff

log = structlog.get_logger(__name__)

ACTOR = "poll"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionGuard:
    """How many deployments may go at once."""

    share: float
    """Of the live ones, in (0, 1]."""
    minimum: int
    """Up to this many always may."""

    def trips(self, going: int, live: int) -> bool:
        return going > self.minimum and going > self.share * live


@dataclass(slots=True)
class PollMemory:
    """What this process remembers between polls."""

    digests: dict[str, str] = field(default_factory=dict)
    """Deployment → content digest that its stream is known to be at."""
    missed: set[str] = field(default_factory=set)
    """Deployments that answered 404 in the last poll."""
    gone: set[str] = field(default_factory=set)
    """Deployments whose streams have ended, or whose deletion runs."""
    introduced: bool = False
    """Whether listener and settings were found to fit."""
    failures: int = 0
    """Failed polls in a row."""
    not_before: datetime | None = None
    """When the control plane may be asked again."""


@dataclass(slots=True)
class PollResult:
    """What one poll saw."""

    outcome: str = "polled"
    """`polled`, `busy` (another worker polls), `resting` (after a failure), `failed`, or `refused` (a misfit)."""
    listed: int = 0
    """Deployments for this listener."""
    changed: list[str] = field(default_factory=list)
    """Streams that got events."""
    rejected: int = 0
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Poller:
    """Polls for one listener."""

    control_plane: ControlPlane
    events: EventLog
    clock: Clock
    dispatcher: Dispatcher
    config: ListenerConfig
    digest: Callable[[bytes], str]
    guard: DeletionGuard
    version: str
    """Of agentplane, published once."""
    lock_term: float
    """Seconds after which a poll whose worker died keeps nobody else from polling; renewed with every request."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base=10.0, cap=300.0))
    chance: Callable[[], float] = random.random
    memory: PollMemory = field(default_factory=PollMemory)

    def poll(self) -> PollResult:
        """Poll once. Raises LogUnavailable; what goes wrong with the control plane is in the result and the log."""
        stream = engine_stream(self.config.listener_id)
        if self.memory.not_before is not None and self.clock.now() < self.memory.not_before:
            return PollResult(outcome="resting")
        try:
            with held(self.events, f"poll/{self.config.listener_id}", self.lock_term) as lock:
                return self._poll(stream, lock.keep)
        except (LockHeld, LockLost):
            return PollResult(outcome="busy")

    def _poll(self, stream: str, keep: Callable[[], None]) -> PollResult:
        engine = EngineStream(self.events, stream)
        result = PollResult()
        try:
            if not self._introduced(engine):
                result.outcome, result.error = "refused", engine.state.refusal or ""
                return result
            deletions: dict[str, list[Event]] = {}
            listed = self._read(engine, deletions, result, keep)
            live = listed | self._look_for_missing(listed, deletions, keep)
        except ControlPlaneError as error:
            self._failed(engine, error, result)
            return result
        self._delete(engine, deletions, len(live), result)
        self.memory.failures, self.memory.not_before = 0, None
        if engine.state.poll_failure is not None:
            log.info("poll recovered", after=engine.state.poll_failure)
            engine.append(ee.PollRecovered())
        return result

    def _failed(self, engine: EngineStream, error: ControlPlaneError, result: PollResult) -> None:
        """Note a failure once, and rest for a while."""
        result.outcome, result.error = "failed", str(error)
        self.memory.failures += 1
        rest = self.backoff.delay(self.memory.failures, self.chance(), error.retry_after)
        self.memory.not_before = self.clock.now() + timedelta(seconds=rest)
        if engine.state.poll_failure is None:
            log.error("poll failed", reason=str(error), rest_seconds=round(rest, 1))
            engine.append(ee.PollFailed(reason=str(error)))

    # --- at the start

    def _introduced(self, engine: EngineStream) -> bool:
        """Check that listener and settings fit, once a process; publish our version. Return whether they fit."""
        if self.memory.introduced:
            return True
        refusal = misfit(self.control_plane, self.config)
        if refusal is not None:
            if engine.state.refusal != refusal:
                log.error("listener refused", reason=refusal)
                engine.append(ee.ListenerRefused(reason=refusal))
            return False
        try:
            self.control_plane.publish_version(self.config.listener_id, self.version)
        except ControlPlaneDenied as error:
            log.warning("the control plane does not let us publish our version", reason=str(error))
        if engine.state.refusal is not None or engine.state.published != self.version:
            engine.append(ee.ListenerPublished(version=self.version))
        self.memory.introduced = True
        return True

    # --- the pages

    def _read(
        self,
        engine: EngineStream,
        deletions: dict[str, list[Event]],
        result: PollResult,
        keep: Callable[[], None],
    ) -> set[str]:
        """Read every page; return the ids that were listed for this listener."""
        listed: set[str] = set()
        for page in self.control_plane.deployments():
            keep()
            for resource in page:
                if not r.addressed_to(resource, self.config.listener_id, self.config.workspace_id):
                    continue
                listed.add(str(resource.get("id")))
                self._consider(engine, resource, deletions, result)
        result.listed = len(listed)
        return listed

    def _consider(
        self, engine: EngineStream, raw: dict[str, Json], deletions: dict[str, list[Event]], result: PollResult
    ) -> None:
        """Append what is new in one resource; put a wish for deletion aside."""
        content = r.content_digest(raw, self.digest)
        known = str(raw.get("id"))
        if self.memory.digests.get(known) == content:
            return
        try:
            resource = r.parse(raw)
        except InvalidResource as error:
            result.rejected += 1
            if engine.state.rejected.get(error.resource) != f"{error.field}: {error.problem}":
                log.error("deployment skipped", resource=error.resource, field=error.field, problem=error.problem)
                engine.append(ee.ResourceRejected(resource=error.resource, field=error.field, problem=error.problem))
            self.memory.digests[known] = content
            return
        found = self._append(resource.id, lambda state: r.changes(state, resource, content, self.digest), deletions)
        if found:
            result.changed.append(deployment_stream(resource.id))
        if resource.id not in deletions:
            self.memory.digests[resource.id] = content
            self.memory.gone.discard(resource.id)

    def _append(
        self,
        deployment_id: str,
        changes: Callable[[DeploymentState], list[Event]],
        deletions: dict[str, list[Event]] | None = None,
    ) -> bool:
        """Append what `changes` says of the folded stream; return whether there was anything.

        With `deletions`, events that ask for a deletion are put there instead.
        """
        fold = Fold(ListenerMachine(self.config), self.events, deployment_stream(deployment_id))
        while True:
            fold.catch_up()
            found = changes(fold.state)
            if deletions is not None and any(isinstance(event, e.DeletionRequested) for event in found):
                deletions[deployment_id] = found
                return False
            if not found:
                return False
            try:
                self.events.append(fold.stream, fold.version, found, actor=ACTOR)
            except ConcurrencyConflict:
                continue
            log.info("deployment changed", stream=fold.stream, events=[event.type for event in found])
            self.dispatcher.dispatch(fold.stream)
            return True

    # --- deletions

    def _look_for_missing(
        self, listed: set[str], deletions: dict[str, list[Event]], keep: Callable[[], None]
    ) -> set[str]:
        """Ask for every live deployment that was not listed by its own URL; return the live ones.

        One that is missing for the second time running is put among the deletions.
        """
        prefix = ListenerMachine.stream_prefix
        unlisted = {stream.removeprefix(prefix) for stream in self.events.streams(prefix)} - listed - self.memory.gone
        missed: set[str] = set()
        live: set[str] = set()
        for deployment_id in sorted(unlisted):
            if not self._is_live(deployment_id):
                self.memory.gone.add(deployment_id)
                continue
            live.add(deployment_id)
            keep()
            try:
                self.control_plane.deployment(deployment_id)
            except ControlPlaneNotFound:
                missed.add(deployment_id)
                if deployment_id in self.memory.missed:
                    deletions[deployment_id] = [e.DeletionRequested(reason="404 from the control plane in two polls")]
        self.memory.missed = missed
        return live

    def _is_live(self, deployment_id: str) -> bool:
        fold = Fold(ListenerMachine(self.config), self.events, deployment_stream(deployment_id))
        fold.catch_up()
        return bool(fold.state.id) and not fold.state.deletion_reason

    def _delete(self, engine: EngineStream, wanted: dict[str, list[Event]], live: int, result: PollResult) -> None:
        """Append deletions, unless they are more at once than the guard lets through."""
        held = {deployment_id for deployment_id in wanted if deployment_id not in engine.state.released}
        if self.guard.trips(len(held), live):
            if set(engine.state.guarded) != held:
                log.error("deletion guard tripped", deployments=len(held), live=live)
                engine.append(ee.DeletionGuardTripped(deployments=tuple(sorted(held)), live=live))
        else:
            held = set()
        for deployment_id, found in wanted.items():
            if deployment_id in held:
                continue
            if self._append(deployment_id, partial(_still_wanted, found)):
                result.changed.append(deployment_stream(deployment_id))
            self.memory.gone.add(deployment_id)


def misfit(control_plane: ControlPlane, config: ListenerConfig) -> str | None:
    """Return why the control plane's listener and our settings do not fit, if they do not."""
    listener_id = config.listener_id
    try:
        listener = control_plane.listener(listener_id)
    except ControlPlaneNotFound:
        return (
            f"the control plane knows no listener {listener_id} in workspace {config.workspace_id}; create it there, "
            "or correct AGENTPLANE_LISTENER_ID or AGENTPLANE_WORKSPACE_ID"
        )
    theirs = sorted((listener.get("compute_config") or {}).get("k8s_namespaces") or [])
    ours = sorted(config.namespaces)
    if theirs != ours:
        return (
            f"listener {listener_id} is for the namespaces [{', '.join(theirs)}] on the control plane, but "
            f"AGENTPLANE_WATCH_NAMESPACES is [{', '.join(ours)}]; make them equal"
        )
    return None


def _still_wanted(found: list[Event], state: DeploymentState) -> list[Event]:
    """Return `found` unless the deletion was asked for meanwhile."""
    return [] if state.deletion_reason or state.deleted else found


class EngineStream:
    """The engine's own stream, folded, with an append that retries."""

    def __init__(self, events: EventLog, stream: str) -> None:
        self._events = events
        self._stream = stream
        self._version = 0
        self.state = ee.EngineState()
        self._catch_up()

    def _catch_up(self) -> None:
        for record in self._events.read(self._stream, self._version):
            self.state = ee.evolve(self.state, ee.ENGINE_EVENTS.decode(record), record.at)
            self._version = record.version

    def append(self, event: Event, actor: str = ACTOR) -> None:
        """Append one event, after whatever came meanwhile."""
        while True:
            try:
                self._version = self._events.append(self._stream, self._version, [event], actor=actor)
            except ConcurrencyConflict:
                self._catch_up()
                continue
            self._events.settle(self._stream, self._version)
            self._version -= 1
            self._catch_up()
            return
