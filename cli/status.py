"""`agentplane status`."""

from __future__ import annotations

from dataclasses import asdict

from rich.text import Text

from cli.log import event_log
from cli.output import FAILED, age, console, json_line, table
from engine.engine_events import EngineState
from engine.listener.state import Phase
from engine.views import DeploymentView, deployments, engine_states

COLOURS = {
    Phase.DEPLOYED: "green",
    Phase.DEPLOY_FAILED: "red",
    Phase.DEPLOYING: "yellow",
    Phase.AWAITING_DEPLOY: "yellow",
    Phase.QUEUED: "yellow",
}


def show(*, json: bool, deleted: bool) -> int:
    """Print the deployments and what is wrong with the data plane itself; return the exit code."""
    events = event_log()
    views = deployments(events, deleted=deleted)
    engines = engine_states(events)
    if json:
        for view in views:
            json_line(asdict(view))
    else:
        table(("DEPLOYMENT", "NAMESPACE", "STATUS", "REVISION", "PHASE", "AGE", "REASON"), map(_row, views))
        if not views:
            console.print("no deployments yet", style="dim")
        for stream, state in engines.items():
            for problem in problems(state):
                console.print(Text(f"{stream}: {problem}", style="red"), soft_wrap=True)
        waiting = len(events.dirty())
        console.print(f"{len(views)} deployments, {waiting} streams to look at, {events.head()} events", style="dim")
    failed = any(view.phase == Phase.DEPLOY_FAILED for view in views) or any(map(problems, engines.values()))
    return FAILED if failed else 0


def _row(view: DeploymentView) -> tuple[str | Text, ...]:
    phase = Text(view.phase or "-", style=COLOURS.get(Phase(view.phase), "") if view.phase else "")
    if view.paused:
        phase.append(" (paused)", style="yellow")
    reason = view.reason.strip().splitlines()[0] if view.reason.strip() else ""
    return view.name, view.namespace, view.status, view.revision[:8], phase, age(view.since), Text(reason)


def problems(state: EngineState) -> list[str]:
    """Return what is wrong with a data plane itself."""
    found = []
    if state.refusal:
        found.append(f"listener refused: {state.refusal}")
    if state.poll_failure:
        found.append(f"polling fails: {state.poll_failure}")
    if state.guarded:
        found.append(f"{len(state.guarded)} deletions at once wait for a person: see `agentplane release-deletions`")
    return found
