"""`agentplane uninstall`: deletes the Agent Servers before the data plane is removed, or cancels that.

The data plane deletes them itself, in the same way as deployments that the control plane deletes, so nothing of an
Agent Server stays behind. First polls stop (RemovalStarted), so that no deployment comes back. Then each deployment's
stream gets a DeletionRequested. Then the command waits until the log says that every deployment and its objects are
gone. If the command is interrupted, the data plane continues by itself, and the command may be given again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from cli.log import NotOperable, append, event_log, person
from cli.output import FAILED, console, counted, note
from engine.dataplane.events import RemovalCancelled, RemovalStarted
from engine.listener.events import DeletionRequested, Resumed
from engine.listener.state import Status
from engine.log.contract import EventLog
from engine.names import deployment_stream
from engine.queries import DeploymentSummary, data_plane_states, deployments, leaves_nothing

POLL_SECONDS = 0.5
"""Seconds between two reads of the log while the command waits."""


def delete_agents(*, yes: bool, wait_seconds: float) -> int:
    """Delete the Agent Servers of every deployment of this log; return the exit code.

    `wait_seconds` is how long to wait until they are gone. Raises NotOperable if no data plane ever wrote to the log.
    """
    log = event_log()
    data_planes = _data_planes(log)
    found = deployments(log)
    ours = [summary for summary in found if summary.id]
    for summary in ours:
        console.print(f"{summary.name} ({summary.id}) in namespace {summary.namespace}", markup=False)
    if not yes:
        databases = "its database" if len(ours) == 1 else "their databases"
        console.print(f"nothing was changed; give --yes to delete {_agent_servers(ours)}, including {databases}")
        return FAILED
    for stream in data_planes:
        append(log, stream, RemovalStarted(by=person()))
    for summary in ours:
        _request_deletion(log, summary)
    left = _wait(log, ours, wait_seconds)
    for summary in left:
        reason = summary.reason or "no reason known"
        console.print(f"still there: {summary.name} ({summary.id}): {reason}", markup=False)
    if left:
        console.print("the deletion continues; give the command again to wait, or see `agentplane status`")
        return FAILED
    for summary in found:
        if not summary.id:
            lgp = f"{summary.namespace}/{summary.lgp}"
            console.print(f"left in place, because this listener did not write it: LGP {lgp}", markup=False)
    console.print(f"{_agent_servers(ours)} deleted; polls have stopped; now remove the data plane: helm uninstall …")
    return 0


def cancel() -> None:
    """Resume polling. What the control plane still lists is deployed again."""
    log = event_log()
    removed = [stream for stream, state in data_plane_states(log).items() if state.removing is not None]
    for stream in removed:
        append(log, stream, RemovalCancelled(by=person()))
    console.print(
        "the removal is cancelled; the next poll deploys what the control plane lists"
        if removed
        else "no removal is in progress"
    )


def _data_planes(log: EventLog) -> list[str]:
    streams = list(data_plane_states(log))
    if not streams:
        raise NotOperable(
            "no data plane has ever written to this log; check that AGENTPLANE_PREFIX is the prefix of the installation"
        )
    return streams


def _request_deletion(log: EventLog, summary: DeploymentSummary) -> None:
    stream = deployment_stream(summary.id)
    if summary.paused:
        append(log, stream, Resumed(by=person()))
    if summary.status != Status.AWAITING_DELETE:
        append(log, stream, DeletionRequested(reason=f"the data plane is being removed by {person()}"))


def _wait(log: EventLog, ours: Iterable[DeploymentSummary], seconds: float) -> list[DeploymentSummary]:
    """Wait until deployments and their objects are gone; return those that are not after `seconds`."""
    ids, last = {summary.id for summary in ours}, -1
    deadline = time.monotonic() + seconds
    while True:
        known = deployments(log, deleted=True)
        left = [summary for summary in known if summary.id in ids and not leaves_nothing(log, summary)]
        if len(left) != last:
            last = len(left)
            note(f"{last} of {len(ids)} left to delete")
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_SECONDS)


def _agent_servers(summaries: Sequence[DeploymentSummary]) -> str:
    return counted(len(summaries), "Agent Server")
