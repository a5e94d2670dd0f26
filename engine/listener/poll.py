"""One poll of the control plane: every page, compared by digest, and what changed as events.

Theory of operation. The list is read in full, undecoded. A resource that is not addressed to this listener and this
workspace is never touched. For the others a keyed digest decides: one whose digest and whose stream are as they were
costs nothing more. Any other is parsed, compared with the folded stream (the log, not memory, is the truth), and what
is new is appended. One that cannot be parsed is reported once, by the path of its field, and skipped.

A page may be older than the stream: while it was read, an act may have fetched a newer revision. So before a revision
takes the place of another one, the deployment is read again by its own URL, after the stream; what comes from there
cannot be older than what the stream knows.

Absence from the list proves nothing (offset paging skips items when another is deleted between two pages). A stream
whose deployment was not listed is asked for by its own URL; only a 404 in two polls running asks for its deletion. When
more deletions come at once than the set share, all of them wait for a person (`DeletionGuardTripped`).

A failing control plane is left alone for a growing time, and for as long as it asked; the log has the two edges only.

`PollMemory` is a cache in the worker's process: losing it, or running several workers, costs reads only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog

from engine.dataplane.events import (
    DATA_PLANE_EVENTS,
    DeletionGuardReleased,
    DeletionGuardTripped,
    ListenerPublished,
    ListenerRefused,
    PollFailed,
    PollRecovered,
    ResourceAccepted,
    ResourceRejected,
)
from engine.dataplane.state import DataPlaneState, evolve
from engine.errors import (
    AgentplaneError,
    ConcurrencyConflict,
    ControlPlaneDenied,
    ControlPlaneError,
    ControlPlaneNotFound,
    FutureEvent,
    InvalidResource,
    LockHeld,
    LockLost,
    SnapshotUnreadable,
)
from engine.event import Event, Json
from engine.listener.config import ListenerConfig
from engine.listener.decide import other_owner
from engine.listener.events import DeletionRequested, RevisionRequested
from engine.listener.machine import ListenerMachine
from engine.listener.resource import addressed_to, changes_to, content_digest, display_name, parse_deployment
from engine.listener.state import DeploymentState
from engine.log.contract import EventLog
from engine.names import data_plane_stream, deployment_stream
from engine.ports import Clock, ControlPlane, Dispatcher
from engine.runtime.advance import described
from engine.runtime.fold import Fold
from engine.runtime.lock_renewal import hold_lock
from engine.runtime.retry import Backoff

log = structlog.get_logger(__name__)

ACTOR = "poll"

STREAM_STOPPED = (FutureEvent, SnapshotUnreadable)
"""What keeps one stream from being folded by this program; the others go on."""


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

    history: str = ""
    """Of the log; in another one, an equal version is no proof of equal events."""
    digests: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Deployment → content digest, and the version at which its stream was found to need nothing for it."""
    missed: set[str] = field(default_factory=set)
    """Deployments that answered 404 in the last poll."""
    gone: dict[str, int] = field(default_factory=dict)
    """Deployment → version at which its stream was found to have ended, to be ending, or not to be ours."""
    handshake_done: bool = False
    """Whether listener and settings were found to fit."""
    failures: int = 0
    """Failed polls in a row."""
    not_before: datetime | None = None
    """When the control plane may be asked again."""


@dataclass(slots=True)
class PollResult:
    """What one poll saw."""

    outcome: str = "polled"
    """`polled`, `busy` (another worker polls), `resting` (after a failure), `failed`, `refused` (a misfit),
    `removing` (the data plane is on its way out), or `outdated` (another configuration than this worker's is in force).
    """
    listed: int = 0
    """Deployments for this listener."""
    changed: list[str] = field(default_factory=list)
    """Streams that got events."""
    rejected: int = 0
    error: str = ""


@dataclass(slots=True, kw_only=True)
class PollContext:
    """What one poll has seen so far."""

    engine: EngineStream
    keep: Callable[[], None]
    """Proves the lock."""
    versions: dict[str, int]
    """Streams of deployments, as they were when the poll began."""
    result: PollResult
    listed: set[str] = field(default_factory=set)
    """Deployments for this listener."""
    names: set[str] = field(default_factory=set)
    """What these are called in messages."""
    deletions: dict[str, list[Event]] = field(default_factory=dict)
    """Deployment → the events that ask for its deletion."""

    def version(self, deployment_id: str) -> int:
        return self.versions.get(deployment_stream(deployment_id), 0)


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
    lock_ttl: float
    """Seconds after which a poll whose worker died keeps nobody else from polling; renewed with every request."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base=10.0, cap=300.0))
    chance: Callable[[], float] = random.random
    memory: PollMemory = field(default_factory=PollMemory)

    def poll(self) -> PollResult:
        """Poll once. Raises LogUnavailable; what goes wrong with the control plane is in the result and the log."""
        stream = data_plane_stream(self.config.listener_id)
        if self.memory.not_before is not None and self.clock.now() < self.memory.not_before:
            return PollResult(outcome="resting")
        try:
            with hold_lock(self.events, f"poll/{self.config.listener_id}", self.lock_ttl) as lock:
                return self._poll(stream, lock.keep)
        except (LockHeld, LockLost):
            return PollResult(outcome="busy")

    def _poll(self, stream: str, keep: Callable[[], None]) -> PollResult:
        engine = EngineStream(self.events, stream)
        result = PollResult()
        if engine.state.removing is not None:
            result.outcome = "removing"
            return result
        history = self.events.history()
        if history != self.memory.history:
            self.memory.history = history
            self.memory.digests.clear()
            self.memory.gone.clear()
        versions = self.events.versions(ListenerMachine.stream_prefix)
        sight = PollContext(engine=engine, keep=keep, versions=versions, result=result)
        try:
            if not self._handshake(engine):
                result.outcome, result.error = "refused", engine.state.refusal or ""
                return result
            self._read(sight)
            live = sight.listed | self._look_for_missing(sight)
        except ControlPlaneError as error:
            self._failed(engine, error, result)
            return result
        self._delete(sight, len(live))
        self._lift_rejections(sight)
        self.memory.failures, self.memory.not_before = 0, None
        if engine.state.poll_failure is not None:
            log.info("poll recovered", after=engine.state.poll_failure)
            engine.append(PollRecovered())
        return result

    def _failed(self, engine: EngineStream, error: ControlPlaneError, result: PollResult) -> None:
        """Note a failure once, and rest for a while."""
        result.outcome, result.error = "failed", str(error)
        self.memory.failures += 1
        rest = self.backoff.delay(self.memory.failures, self.chance(), error.retry_after)
        self.memory.not_before = self.clock.now() + timedelta(seconds=rest)
        if engine.state.poll_failure is None:
            log.error("poll failed", reason=str(error), rest_seconds=round(rest, 1))
            engine.append(PollFailed(reason=str(error)))
        else:
            log.warning("poll still fails", reason=str(error), rest_seconds=round(rest, 1))

    # --- at the start

    def _handshake(self, engine: EngineStream) -> bool:
        """Check that listener and settings fit, once a process; publish our version. Return whether they fit."""
        if self.memory.handshake_done:
            return True
        refusal = configuration_mismatch(self.control_plane, self.config)
        if refusal is not None:
            if engine.state.refusal != refusal:
                log.error("listener refused", reason=refusal)
                engine.append(ListenerRefused(reason=refusal))
            return False
        try:
            self.control_plane.publish_version(self.config.listener_id, self.version)
        except ControlPlaneDenied as error:
            log.warning("the control plane does not let us publish our version", reason=str(error))
        if engine.state.refusal is not None or engine.state.published != self.version:
            engine.append(ListenerPublished(version=self.version))
        self.memory.handshake_done = True
        return True

    # --- the pages

    def _read(self, sight: PollContext) -> None:
        """Read every page, and append what is new in it."""
        for page in self.control_plane.deployments():
            sight.keep()
            for resource in page:
                if addressed_to(resource, self.config.listener_id, self.config.workspace_id):
                    sight.listed.add(str(resource.get("id")))
                    sight.names.add(display_name(resource))
                    self._process_resource_safely(sight, resource)
        sight.result.listed = len(sight.listed)

    def _process_resource_safely(self, sight: PollContext, raw: dict[str, Json]) -> None:
        """Consider one resource; one that brings a defect to light is skipped, like any other that is wrong."""
        try:
            self._process_resource(sight, raw)
        except AgentplaneError:
            raise
        except Exception as defect:
            problem = f"cannot be handled: {described(defect)}"
            self._reject(sight, InvalidResource(display_name(raw), "(as a whole)", problem))

    def _process_resource(self, sight: PollContext, raw: dict[str, Json]) -> None:
        """Append what is new in one resource, unless it is as it was; put a wish for deletion aside."""
        content, deployment_id = content_digest(raw, self.digest), str(raw.get("id"))
        version = sight.version(deployment_id)
        if self.memory.digests.get(deployment_id) == (content, version):
            return
        try:
            version = self._bring_stream_up_to_date(sight, raw, content)
        except InvalidResource as error:
            self._reject(sight, error)
        except STREAM_STOPPED as error:
            log.error("deployment skipped", stream=deployment_stream(deployment_id), reason=str(error))
            return
        except ControlPlaneNotFound:
            return  # it went while we looked; the next poll sees to it
        else:
            if display_name(raw) in sight.engine.state.rejected:
                sight.engine.append(ResourceAccepted(resource=display_name(raw)))
        if deployment_id not in sight.deletions:
            self.memory.digests[deployment_id] = (content, version)

    def _bring_stream_up_to_date(self, sight: PollContext, raw: dict[str, Json], content: str) -> int:
        """Bring the stream up to a resource; return the version at which it is so.

        Raises InvalidResource.
        """
        changes = self._changes(raw, content)
        deployment_id = str(raw["id"])
        fold = self._fold(deployment_id)
        while True:
            found = changes(fold.state)
            if _replaces_revision(fold.state, found):
                sight.keep()
                found = self._read_again(deployment_id, fold.state)
            if any(isinstance(event, DeletionRequested) for event in found):
                sight.deletions[deployment_id] = found
                return fold.version
            if not found or self._appended(fold, found, sight.result):
                return fold.version
            fold.catch_up()

    def _changes(self, raw: dict[str, Json], content: str) -> Callable[[DeploymentState], list[Event]]:
        """Return what brings a state up to a resource. Raises InvalidResource, now or then."""
        return partial(changes_to, resource=parse_deployment(raw), content=content, digest=self.digest)

    def _read_again(self, deployment_id: str, state: DeploymentState) -> list[Event]:
        """Return what brings `state` up to the deployment as it is now."""
        raw = self.control_plane.deployment(deployment_id)
        if not addressed_to(raw, self.config.listener_id, self.config.workspace_id):
            return []
        return self._changes(raw, content_digest(raw, self.digest))(state)

    def _fold(self, deployment_id: str) -> Fold[DeploymentState]:
        fold = Fold(ListenerMachine(self.config), self.events, deployment_stream(deployment_id))
        fold.catch_up()
        return fold

    def _appended(self, fold: Fold[DeploymentState], found: list[Event], result: PollResult) -> bool:
        """Append `found` to the stream as it was folded; return False when it has moved since."""
        try:
            self.events.append(fold.stream, fold.version, found, actor=ACTOR)
        except ConcurrencyConflict:
            return False
        log.info("deployment changed", stream=fold.stream, events=[event.type for event in found])
        fold.catch_up()
        result.changed.append(fold.stream)
        self.dispatcher.dispatch(fold.stream)
        return True

    # --- what cannot be understood

    def _reject(self, sight: PollContext, error: InvalidResource) -> None:
        """Say once what is wrong with a resource."""
        sight.result.rejected += 1
        if sight.engine.state.rejected.get(error.resource) != f"{error.field}: {error.problem}":
            log.error("deployment skipped", resource=error.resource, field=error.field, problem=error.problem)
            event = ResourceRejected(resource=error.resource, field=error.field, problem=error.problem)
            sight.engine.append(event)

    def _lift_rejections(self, sight: PollContext) -> None:
        """Say that resources are skipped no more which are not listed any more."""
        for resource in [name for name in sight.engine.state.rejected if name not in sight.names]:
            sight.engine.append(ResourceAccepted(resource=resource))
            self.memory.digests.pop(resource.removeprefix("deployment "), None)

    # --- deletions

    def _look_for_missing(self, sight: PollContext) -> set[str]:
        """Ask for every live deployment that was not listed by its own URL; return the live ones.

        One that is missing for the second time running is put among the deletions.
        """
        prefix = ListenerMachine.stream_prefix
        unlisted = {stream.removeprefix(prefix) for stream in sight.versions} - sight.listed
        missed: set[str] = set()
        live: set[str] = set()
        for deployment_id in sorted(unlisted):
            if not self._is_live(deployment_id, sight.version(deployment_id)):
                continue
            live.add(deployment_id)
            sight.keep()
            try:
                self.control_plane.deployment(deployment_id)
            except ControlPlaneNotFound:
                missed.add(deployment_id)
                if deployment_id in self.memory.missed:
                    reason = "404 from the control plane in two polls"
                    sight.deletions[deployment_id] = [DeletionRequested(reason=reason)]
        self.memory.missed = missed
        return live

    def _is_live(self, deployment_id: str, version: int) -> bool:
        if self.memory.gone.get(deployment_id) == version:
            return False
        try:
            fold = self._fold(deployment_id)
        except STREAM_STOPPED as error:
            log.error("deployment skipped", stream=deployment_stream(deployment_id), reason=str(error))
            return False
        if fold.state.id and fold.state.deletion is None and other_owner(fold.state, self.config) is None:
            return True
        self.memory.gone[deployment_id] = fold.version
        return False

    def _delete(self, sight: PollContext, live: int) -> None:
        """Append deletions, unless they are more at once than the guard lets through."""
        engine = sight.engine
        held = {deployment_id for deployment_id in sight.deletions if deployment_id not in engine.state.released}
        if self.guard.trips(len(held), live):
            if set(engine.state.guarded) != held:
                log.error("deletion guard tripped", deployments=len(held), live=live)
                engine.append(DeletionGuardTripped(deployments=tuple(sorted(held)), live=live))
        else:
            held = set()
            if engine.state.guarded:
                engine.append(DeletionGuardReleased(deployments=(), by=ACTOR))
        for deployment_id in sorted(sight.deletions.keys() - held):
            found = sight.deletions[deployment_id]
            fold = self._fold(deployment_id)
            while not (fold.state.deletion is not None or fold.state.deleted):
                if self._appended(fold, found, sight.result):
                    break
                fold.catch_up()


def _replaces_revision(state: DeploymentState, found: list[Event]) -> bool:
    """Whether a revision is to take the place of another one."""
    requested = next((event.revision_id for event in found if isinstance(event, RevisionRequested)), None)
    return requested is not None and state.revision is not None and state.revision.id != requested


def configuration_mismatch(control_plane: ControlPlane, config: ListenerConfig) -> str | None:
    """Return why the control plane's listener and our settings do not fit, if they do not.

    Raises ControlPlaneUnavailable where there is no control plane.
    """
    try:
        listener = control_plane.listener(config.listener_id)
    except ControlPlaneNotFound:
        # A path that leads elsewhere answers 404 as well; but then there is no list either, and its error says so.
        next(iter(control_plane.deployments()), None)
        return unknown_listener(config)
    return namespace_mismatch(listener, config)


def unknown_listener(config: ListenerConfig) -> str:
    """Return what to say of a listener that the control plane does not have."""
    return (
        f"the control plane knows no listener {config.listener_id} in workspace {config.workspace_id}; create it "
        "there, or correct AGENTPLANE_LISTENER_ID or AGENTPLANE_WORKSPACE_ID"
    )


def namespace_mismatch(listener: Mapping[str, Json], config: ListenerConfig) -> str | None:
    """Return how the namespaces of the control plane's listener and our settings differ; None when they do not."""
    theirs = sorted(map(str, (listener.get("compute_config") or {}).get("k8s_namespaces") or []))
    ours = sorted(config.namespaces)
    if theirs != ours:
        return (
            f"listener {config.listener_id} is for the namespaces [{', '.join(theirs)}] on the control plane, but "
            f"AGENTPLANE_WATCH_NAMESPACES is [{', '.join(ours)}]; make them equal"
        )
    return None


class EngineStream:
    """The engine's own stream, folded, with an append that retries."""

    def __init__(self, events: EventLog, stream: str) -> None:
        self._events = events
        self._stream = stream
        self._version = 0
        self.state = DataPlaneState()
        self._catch_up()

    def _catch_up(self) -> None:
        for record in self._events.read(self._stream, self._version):
            self.state = evolve(self.state, DATA_PLANE_EVENTS.decode(record), record.at)
            self._version = record.version

    def append(self, event: Event, actor: str = ACTOR) -> None:
        """Append one event, after whatever came meanwhile."""
        while True:
            try:
                self._version = self._events.append(self._stream, self._version, [event], actor=actor)
            except ConcurrencyConflict:
                self._catch_up()
                continue
            self._events.acknowledge(self._stream, self._version)
            self._version -= 1
            self._catch_up()
            return
