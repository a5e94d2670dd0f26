"""`agentplane pause`, `resume`, `release-deletions` and `archive`: what a person may tell the engine, as events."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.log import event_log
from cli.output import FAILED, console
from engine.dataplane.events import DeletionGuardReleased
from engine.errors import AgentplaneError, ConcurrencyConflict
from engine.event import Event
from engine.listener.events import Paused, Resumed
from engine.log.contract import EventLog
from engine.log.retention import Policy, retain
from engine.names import deployment_stream
from engine.queries import DeploymentSummary, data_plane_states, deployments, find
from engine.replay import configured

ACTOR = "cli"


class NotOperable(AgentplaneError):
    """There is nothing to pause or resume."""


def pause(deployment: str) -> None:
    """Append Paused. Raises UnknownDeployment, AmbiguousDeployment, NotOperable."""
    log = event_log()
    view = _live(log, deployment)
    if view.paused:
        console.print(f"{view.name} is paused already")
        return
    append(log, deployment_stream(view.id), Paused(by=person()))
    console.print(f"{view.name} is paused; `agentplane resume {deployment}` lets it go on")


def resume(deployment: str) -> None:
    """Append Resumed, also for one that is not paused: refused and deferred acts get another chance at once.

    Raises UnknownDeployment, AmbiguousDeployment, NotOperable.
    """
    log = event_log()
    view = _live(log, deployment)
    append(log, deployment_stream(view.id), Resumed(by=person()))
    now = "goes on" if view.paused else "was not paused; what failed is tried again now"
    console.print(f"{view.name} {now}")


def _live(log: EventLog, deployment: str) -> DeploymentSummary:
    view = find(log, deployment, one=True)
    if view.deleted:
        raise NotOperable(f"{view.name} ({view.id or view.lgp}) is deleted")
    if not view.id:
        raise NotOperable(f"{view.name} is an LGP that somebody else wrote: its writer decides, the operator follows")
    return view


def release_deletions(*, yes: bool) -> int:
    """Append DeletionGuardReleased for every data plane whose guard tripped; return the exit code."""
    log = event_log()
    guarded = {stream: state.guarded for stream, state in data_plane_states(log).items() if state.guarded}
    if not guarded:
        console.print("no deletions are waiting")
        return 0
    names = {view.id: view.name for view in deployments(log, deleted=True)}
    for stream, waiting in guarded.items():
        for deployment in waiting:
            console.print(f"{stream}: {names.get(deployment, 'deployment')} ({deployment})", markup=False)
        if yes:
            append(log, stream, DeletionGuardReleased(deployments=waiting, by=person()))
    if not yes:
        console.print("nothing was done: say --yes to let these deletions go on")
        return FAILED
    console.print("the next poll lets them go on")
    return 0


def archive(folder: Path, *, live_days: float | None, gone_days: float | None) -> None:
    """Archive and trim by age in days; None keeps for ever."""
    log = event_log()
    policy = Policy(live=_days(live_days), gone=_days(gone_days))
    done = retain(log, configured(log), policy, folder, datetime.now(UTC))
    if done.archive is None:
        console.print("nothing is that old")
        return
    events = sum(done.trimmed.values()) + sum(done.forgotten.values())
    console.print(
        f"{events} events of {len(done.trimmed)} live and {len(done.forgotten)} gone streams moved to {done.archive}",
        soft_wrap=True,
    )


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def append(log: EventLog, stream: str, event: Event) -> None:
    """Append one event after whatever is there. The sweep brings the stream to a worker."""
    while True:
        try:
            log.append(stream, log.version(stream), [event], actor=ACTOR)
        except ConcurrencyConflict:
            continue
        return


def person() -> str:
    """Return who gives the command, for the log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
