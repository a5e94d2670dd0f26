"""How a poll detects and records deletions.

A deployment is deleted when the control plane lists it with the status AWAITING_DELETE (`resource.py` recognises that
status as it parses the list), or when its own URL answers 404 in two polls in a row (`find_missing` here). Absence
from the list proves nothing: offset paging skips items when another item is deleted between two pages. When more
deletions come at once than the set share, all of them wait for a person (`DeletionGuardTripped`).
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from engine.dataplane.events import DeletionGuardReleased, DeletionGuardTripped
from engine.errors import ControlPlaneNotFound
from engine.listener.decide import other_owner
from engine.listener.events import DeletionRequested
from engine.listener.machine import ListenerMachine
from engine.listener.poll_context import ACTOR, UNREADABLE, PollContext
from engine.names import deployment_stream

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionGuard:
    """How many deployments may be deleted at once."""

    share: float
    """Of the live deployments, in (0, 1]."""
    minimum: int
    """Up to this many may always be deleted."""

    def trips(self, deletions: int, live: int) -> bool:
        """Whether `deletions` of `live` deployments are too many at once."""
        return deletions > self.minimum and deletions > self.share * live


def find_missing(context: PollContext) -> set[str]:
    """Read every live deployment that was not listed by its own URL; return the live deployments among them.

    A deployment that answers 404 for the second poll in a row is added to the deletions. Raises ControlPlaneError.
    """
    prefix = ListenerMachine.stream_prefix
    unlisted = {stream.removeprefix(prefix) for stream in context.versions} - context.listed
    missed: set[str] = set()
    live: set[str] = set()
    for deployment_id in sorted(unlisted):
        if not _is_live(context, deployment_id):
            continue
        live.add(deployment_id)
        context.keep_lock()
        try:
            context.control_plane.deployment(deployment_id)
        except ControlPlaneNotFound:
            missed.add(deployment_id)
            if deployment_id in context.memory.missed:
                reason = "404 from the control plane in two polls"
                context.deletions[deployment_id] = [DeletionRequested(reason=reason)]
    context.memory.missed = missed
    return live


def _is_live(context: PollContext, deployment_id: str) -> bool:
    """Whether a deployment is ours and its deletion is not asked for yet."""
    if context.memory.gone.get(deployment_id) == context.version(deployment_id):
        return False
    try:
        fold = context.fold(deployment_id)
    except UNREADABLE as error:
        log.error("deployment skipped", stream=deployment_stream(deployment_id), reason=str(error))
        return False
    if fold.state.id and fold.state.deletion is None and other_owner(fold.state, context.config) is None:
        return True
    context.memory.gone[deployment_id] = fold.version
    return False


def append_deletions(context: PollContext, guard: DeletionGuard, live: int) -> None:
    """Append the deletions that were found, unless the guard holds them back. `live` counts the live deployments."""
    own = context.own
    guarded = {deployment_id for deployment_id in context.deletions if deployment_id not in own.known.released}
    if guard.trips(len(guarded), live):
        if set(own.known.guarded) != guarded:
            log.error("deletion guard tripped", deployments=len(guarded), live=live)
            context.record(DeletionGuardTripped(deployments=tuple(sorted(guarded)), live=live))
    else:
        guarded = set()
        if own.known.guarded:
            context.record(DeletionGuardReleased(deployments=(), by=ACTOR))
    for deployment_id in sorted(context.deletions.keys() - guarded):
        found = context.deletions[deployment_id]
        fold = context.fold(deployment_id)
        while not (fold.state.deletion is not None or fold.state.deleted):
            if context.append(fold, found):
                break
            fold.catch_up()
