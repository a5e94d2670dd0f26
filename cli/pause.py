"""`agentplane pause` and `resume`: record the command in the deployment's stream; the listener obeys it."""

from __future__ import annotations

from cli.log import NotOperable, append, event_log, person
from cli.output import console
from engine.listener.events import Paused, Resumed
from engine.log.contract import EventLog
from engine.names import deployment_stream
from engine.queries import DeploymentSummary, find


def pause(deployment: str) -> None:
    """Append Paused. Raises UnknownDeployment, AmbiguousDeployment, NotOperable."""
    log = event_log()
    summary = _live(log, deployment)
    if summary.paused:
        console.print(f"{summary.name} is already paused")
        return
    append(log, deployment_stream(summary.id), Paused(by=person()))
    console.print(f"{summary.name} is paused; to resume: `agentplane resume {deployment}`")


def resume(deployment: str) -> None:
    """Append Resumed, also when the deployment is not paused: then refused and deferred acts are tried again at once.

    Raises UnknownDeployment, AmbiguousDeployment, NotOperable.
    """
    log = event_log()
    summary = _live(log, deployment)
    append(log, deployment_stream(summary.id), Resumed(by=person()))
    result = "is resumed" if summary.paused else "was not paused; its failed acts are tried again now"
    console.print(f"{summary.name} {result}")


def _live(log: EventLog, deployment: str) -> DeploymentSummary:
    summary = find(log, deployment, one=True)
    if summary.deleted:
        raise NotOperable(f"{summary.name} ({summary.id or summary.lgp}) is deleted")
    if not summary.id:
        raise NotOperable(
            f"{summary.name} is an LGP that this listener did not write, so it cannot be paused or resumed here: "
            "the operator follows whatever its author writes"
        )
    return summary
