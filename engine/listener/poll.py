"""One poll of the control plane: every page is compared by digest, and each change becomes events.

Theory of operation. The list is read in full, undecoded. A resource that is not addressed to this listener and this
workspace is never touched. For every other resource a keyed digest decides: if the digest and the version of the
deployment's stream are the ones that the last poll saw, the resource costs nothing more. Otherwise it is parsed and
compared with the folded stream (the log, not the process's memory, is the truth), and events are appended for what is
new. A resource that cannot be parsed is recorded once, with the path of the wrong field, and skipped.

A page may be older than the stream: while the page was read, an act may have fetched a newer revision. So before a
revision replaces another one, the deployment is read again by its own URL, after the stream was read. That response
cannot be older than the stream.

Deletions: engine/listener/deletions.py. The handshake before the first poll: engine/listener/handshake.py.

After a failure the control plane is not asked for a time that grows, and at least for the time that it asked for. The
log has two events about it only: PollFailed and PollRecovered.

`PollMemory` is a cache in the worker's process: losing it, or running several workers, costs reads only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import structlog

from engine.dataplane.events import PollFailed, PollRecovered, ResourceAccepted
from engine.dataplane.stream import DataPlaneStream
from engine.errors import (
    AgentplaneError,
    ControlPlaneError,
    ControlPlaneNotFound,
    InvalidResource,
    LockHeld,
    LockLost,
)
from engine.event import Event
from engine.listener.config import ListenerConfig
from engine.listener.deletions import DeletionGuard, append_deletions, find_missing
from engine.listener.events import DeletionRequested, RevisionRequested
from engine.listener.handshake import handshake
from engine.listener.machine import ListenerMachine
from engine.listener.poll_context import UNREADABLE, PollContext, PollMemory, PollOutcome, PollResult
from engine.listener.resource import (
    Resource,
    addressed_to,
    changes_to,
    content_digest,
    display_name,
    parse_deployment,
)
from engine.listener.state import DeploymentState
from engine.log.contract import EventLog
from engine.names import deployment_stream
from engine.ports import Clock, ControlPlane, Dispatcher
from engine.runtime.advance import described
from engine.runtime.backoff import Backoff
from engine.runtime.lock_renewal import hold_lock

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Poller:
    """Polls for one listener."""

    control_plane: ControlPlane
    events: EventLog
    own: DataPlaneStream
    """The data plane's own stream."""
    clock: Clock
    dispatcher: Dispatcher
    config: ListenerConfig
    digest: Callable[[bytes], str]
    guard: DeletionGuard
    version: str
    """Of agentplane, published once per process."""
    lock_ttl: float
    """Seconds for which the lock of a poll whose worker died keeps other workers from polling."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base=10.0, cap=300.0))
    chance: Callable[[], float] = random.random
    memory: PollMemory = field(default_factory=PollMemory)

    def poll(self) -> PollResult:
        """Poll once. A failure of the control plane is in the result and in the log. Raises LogUnavailable."""
        if self.memory.not_before is not None and self.clock.now() < self.memory.not_before:
            return PollResult(outcome=PollOutcome.RESTING)
        try:
            with hold_lock(self.events, f"poll/{self.config.listener_id}", self.lock_ttl) as lock:
                return self._poll(lock.keep)
        except (LockHeld, LockLost):
            return PollResult(outcome=PollOutcome.BUSY)

    def _poll(self, keep_lock: Callable[[], None]) -> PollResult:
        if self.own.state().removing is not None:
            return PollResult(outcome=PollOutcome.REMOVING)
        context = self._context(keep_lock)
        result = context.result
        try:
            if not handshake(context, self.version):
                result.outcome, result.error = PollOutcome.REFUSED, self.own.known.refusal or ""
                return result
            self._read_pages(context)
            live = context.listed | find_missing(context)
        except ControlPlaneError as error:
            self._rest(context, error)
            return result
        append_deletions(context, self.guard, len(live))
        self._accept_unlisted(context)
        self.memory.failures, self.memory.not_before = 0, None
        failure = self.own.known.poll_failure
        if failure is not None:
            log.info("poll recovered", after=failure)
            context.record(PollRecovered())
        return result

    def _context(self, keep_lock: Callable[[], None]) -> PollContext:
        self.memory.enter(self.events.history())
        return PollContext(
            control_plane=self.control_plane,
            events=self.events,
            own=self.own,
            dispatcher=self.dispatcher,
            config=self.config,
            memory=self.memory,
            keep_lock=keep_lock,
            versions=self.events.versions(ListenerMachine.stream_prefix),
            result=PollResult(),
        )

    def _rest(self, context: PollContext, error: ControlPlaneError) -> None:
        """Record the first failure in a row, and do not ask the control plane for a while."""
        context.result.outcome, context.result.error = PollOutcome.FAILED, str(error)
        self.memory.failures += 1
        rest = self.backoff.delay(self.memory.failures, self.chance(), error.retry_after)
        self.memory.not_before = self.clock.now() + timedelta(seconds=rest)
        if self.own.known.poll_failure is None:
            log.error("poll failed", reason=str(error), rest_seconds=round(rest, 1))
            context.record(PollFailed(reason=str(error)))
        else:
            log.warning("poll still fails", reason=str(error), rest_seconds=round(rest, 1))

    # --- the pages

    def _read_pages(self, context: PollContext) -> None:
        """Read every page, and append what is new in it."""
        for page in self.control_plane.deployments():
            context.keep_lock()
            for resource in page:
                if addressed_to(resource, self.config.listener_id, self.config.workspace_id):
                    context.listed.add(str(resource.get("id")))
                    context.names.add(display_name(resource))
                    self._read_or_skip(context, resource)
        context.result.listed = len(context.listed)

    def _read_or_skip(self, context: PollContext, raw: Resource) -> None:
        """Read one resource; skip it like an invalid one if it brings a defect of ours to light."""
        try:
            self._read_resource(context, raw)
        except AgentplaneError:
            raise
        except Exception as defect:
            problem = f"cannot be handled: {described(defect)}"
            context.reject(InvalidResource(display_name(raw), "(as a whole)", problem))

    def _read_resource(self, context: PollContext, raw: Resource) -> None:
        """Append what is new in one resource; a deletion is added to the deletions of the poll."""
        content, deployment_id = content_digest(raw, self.digest), str(raw.get("id"))
        version = context.version(deployment_id)
        if self.memory.digests.get(deployment_id) == (content, version):
            return
        try:
            version = self._append_changes(context, raw, content)
        except InvalidResource as error:
            context.reject(error)
        except UNREADABLE as error:
            log.error("deployment skipped", stream=deployment_stream(deployment_id), reason=str(error))
            return
        except ControlPlaneNotFound:
            return  # the deployment was deleted after it was listed; the next poll finds that out
        else:
            if display_name(raw) in context.own.known.rejected:
                context.record(ResourceAccepted(resource=display_name(raw)))
        if deployment_id not in context.deletions:
            self.memory.digests[deployment_id] = (content, version)

    def _append_changes(self, context: PollContext, raw: Resource, content: str) -> int:
        """Bring a deployment's stream up to the resource; return the version at which the stream is up to it.

        Raises InvalidResource.
        """
        changes = self._changes(raw, content)
        deployment_id = str(raw["id"])
        fold = context.fold(deployment_id)
        while True:
            found = changes(fold.state)
            if _replaces_revision(fold.state, found):
                context.keep_lock()
                found = self._read_again(deployment_id, fold.state)
            if any(isinstance(event, DeletionRequested) for event in found):
                context.deletions[deployment_id] = found
                return fold.version
            if not found or context.append(fold, found):
                return fold.version
            fold.catch_up()

    def _changes(self, raw: Resource, content: str) -> Callable[[DeploymentState], list[Event]]:
        """Return the function from a state to the events that bring the state up to a resource.

        Raises InvalidResource, and so does the function.
        """
        return partial(changes_to, resource=parse_deployment(raw), content=content, digest=self.digest)

    def _read_again(self, deployment_id: str, state: DeploymentState) -> list[Event]:
        """Return the events that bring `state` up to the deployment as it is now."""
        raw = self.control_plane.deployment(deployment_id)
        if not addressed_to(raw, self.config.listener_id, self.config.workspace_id):
            return []
        return self._changes(raw, content_digest(raw, self.digest))(state)

    def _accept_unlisted(self, context: PollContext) -> None:
        """Record that skipped resources which are no longer listed are no longer skipped."""
        for resource in [name for name in self.own.known.rejected if name not in context.names]:
            context.record(ResourceAccepted(resource=resource))
            self.memory.digests.pop(resource.removeprefix("deployment "), None)


def _replaces_revision(state: DeploymentState, found: list[Event]) -> bool:
    """Whether `found` replaces the current revision with another one."""
    requested = next((event.revision_id for event in found if isinstance(event, RevisionRequested)), None)
    return requested is not None and state.revision is not None and state.revision.id != requested
