"""`agentplane pause`, `resume` and `release-deletions`: what a person may tell the engine, as events."""

from __future__ import annotations

import getpass

from cli.log import event_log
from cli.output import FAILED, console
from engine import engine_events as ee
from engine.errors import ConcurrencyConflict
from engine.event import Event
from engine.listener import events as e
from engine.log.contract import EventLog
from engine.names import deployment_stream
from engine.views import engine_states, find

ACTOR = "cli"


def pause(deployment: str) -> None:
    """Append Paused."""
    log = event_log()
    view = find(log, deployment)
    _append(log, deployment_stream(view.id), e.Paused(by=_person()))
    console.print(f"{view.name} is paused; `agentplane resume {view.name}` lets it go on")


def resume(deployment: str) -> None:
    """Append Resumed."""
    log = event_log()
    view = find(log, deployment)
    _append(log, deployment_stream(view.id), e.Resumed(by=_person()))
    console.print(f"{view.name} goes on")


def release_deletions(*, yes: bool) -> int:
    """Append DeletionGuardReleased for every data plane whose guard tripped; return the exit code."""
    log = event_log()
    guarded = {stream: state.guarded for stream, state in engine_states(log).items() if state.guarded}
    if not guarded:
        console.print("no deletions are waiting")
        return 0
    for stream, deployments in guarded.items():
        for deployment in deployments:
            console.print(f"{stream}: deployment {deployment}")
        if yes:
            _append(log, stream, ee.DeletionGuardReleased(deployments=deployments, by=_person()))
    if not yes:
        console.print("nothing was done: say --yes to let these deletions go on")
        return FAILED
    console.print("the next poll lets them go on")
    return 0


def _append(log: EventLog, stream: str, event: Event) -> None:
    """Append one event after whatever is there. The sweep brings the stream to a worker."""
    while True:
        try:
            log.append(stream, log.version(stream), [event], actor=ACTOR)
        except ConcurrencyConflict:
            continue
        return


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
