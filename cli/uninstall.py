"""`agentplane uninstall`: remove the Agent Servers before the data plane, or take that back.

The data plane does the work itself, as for deployments that the control plane deletes, so nothing of an Agent Server
stays behind: polls stop first (RemovalStarted), so that nothing comes back; each deployment's stream gets the wish to
delete it; then we wait until the log says that all of them, and their objects, are gone. Interrupted, it goes on by
itself, and the command may be given again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from cli.log import event_log
from cli.operating import NotOperable, append, person
from cli.output import FAILED, console, note
from engine.dataplane.events import RemovalCancelled, RemovalStarted
from engine.listener.events import DeletionRequested, Resumed
from engine.listener.state import Status
from engine.log.contract import EventLog
from engine.names import deployment_stream
from engine.queries import DeploymentSummary, data_plane_states, deployments, leaves_nothing

LOOK_SECONDS = 0.5
"""Between two looks at what is left."""


def delete_agents(*, yes: bool, wait_seconds: float) -> int:
    """Delete the Agent Servers of every deployment that this log knows; return the exit code.

    `wait_seconds` is how long to wait for them to go. Raises NotOperable for a log that no data plane ever wrote to.
    """
    log = event_log()
    engines = _engines(log)
    views = deployments(log)
    ours = [view for view in views if view.id]
    for view in ours:
        console.print(f"{view.name} ({view.id}) in namespace {view.namespace}", markup=False)
    if not yes:
        console.print(f"nothing was done: say --yes to delete {_counted(ours)}, their databases included")
        return FAILED
    for stream in engines:
        append(log, stream, RemovalStarted(by=person()))
    for view in ours:
        _request_deletion(log, view)
    left = _wait(log, ours, wait_seconds)
    for view in left:
        console.print(f"still there: {view.name} ({view.id}): {view.reason or 'no reason known'}", markup=False)
    if left:
        console.print("it goes on by itself; give the command again to wait, or see `agentplane status`")
        return FAILED
    for view in views:
        if not view.id:
            console.print(f"left alone, since somebody else wrote it: LGP {view.namespace}/{view.lgp}", markup=False)
    console.print(f"{_counted(ours)} gone, nothing is polled; now remove the data plane: helm uninstall …")
    return 0


def cancel() -> None:
    """Let the data plane poll again: what the control plane still lists is deployed anew."""
    log = event_log()
    removed = [stream for stream, state in data_plane_states(log).items() if state.removing is not None]
    for stream in removed:
        append(log, stream, RemovalCancelled(by=person()))
    console.print("the next poll deploys what the control plane lists" if removed else "nothing is being removed")


def _engines(log: EventLog) -> list[str]:
    engines = list(data_plane_states(log))
    if not engines:
        raise NotOperable("no data plane has ever written to this log: is AGENTPLANE_PREFIX that of the installation?")
    return engines


def _request_deletion(log: EventLog, view: DeploymentSummary) -> None:
    stream = deployment_stream(view.id)
    if view.paused:
        append(log, stream, Resumed(by=person()))
    if view.status != Status.AWAITING_DELETE:
        append(log, stream, DeletionRequested(reason=f"the data plane is being removed by {person()}"))


def _wait(log: EventLog, ours: Iterable[DeploymentSummary], seconds: float) -> list[DeploymentSummary]:
    """Wait until deployments and their objects are gone; return those that are not."""
    wanted, told = {view.id: view for view in ours}, -1
    deadline = time.monotonic() + seconds
    while True:
        left = [view for view in deployments(log, deleted=True) if view.id in wanted and not leaves_nothing(log, view)]
        if len(left) != told:
            told = len(left)
            note(f"{told} of {len(wanted)} to go")
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(LOOK_SECONDS)


def _counted(views: list[DeploymentSummary]) -> str:
    return f"{len(views)} Agent Server{'' if len(views) == 1 else 's'}"
