"""`agentplane release-deletions`: lets deletions proceed that the deletion guard holds, because they were too many."""

from __future__ import annotations

from cli.log import append, event_log, person
from cli.output import FAILED, console
from engine.dataplane.events import DeletionGuardReleased
from engine.queries import data_plane_states, deployments


def release_deletions(*, yes: bool) -> int:
    """Append DeletionGuardReleased for every data plane whose guard holds deletions; return the exit code."""
    log = event_log()
    guarded = {stream: state.guarded for stream, state in data_plane_states(log).items() if state.guarded}
    if not guarded:
        console.print("no deletions are waiting")
        return 0
    names = {summary.id: summary.name for summary in deployments(log, deleted=True)}
    for stream, waiting in guarded.items():
        for deployment in waiting:
            console.print(f"{stream}: {names.get(deployment, 'deployment')} ({deployment})", markup=False)
        if yes:
            append(log, stream, DeletionGuardReleased(deployments=waiting, by=person()))
    if not yes:
        console.print("nothing was changed; give --yes to let these deletions proceed")
        return FAILED
    console.print("the next poll lets these deletions proceed")
    return 0
