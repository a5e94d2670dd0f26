"""`agentplane status`."""

from __future__ import annotations

from dataclasses import asdict

from rich.text import Text

from cli.log import event_log
from cli.output import FAILED, WIDE, Table, age, columns, console, fold, json_line, table, widths
from cli.summaries import plain, shorten_ids
from engine.dataplane.state import DataPlaneState
from engine.queries import DeploymentSummary, data_plane_states, deployments

COLOURS = {
    "DEPLOYED": "green",
    "AVAILABLE": "green",
    "DEPLOY_FAILED": "red",
    "DEGRADED": "red",
    "DEPLOYING": "yellow",
    "AWAITING_DEPLOY": "yellow",
    "QUEUED": "yellow",
    "PROGRESSING": "yellow",
}


LONGEST_REASON = 240
"""Characters of a reason in the table."""


def show(*, json: bool, deleted: bool) -> int:
    """Print the deployments and what is wrong with the data plane itself; return the exit code.

    As JSON: a line for each deployment (`kind` is `deployment`), then one for each data plane (`data plane`).
    """
    events = event_log()
    views = deployments(events, deleted=deleted)
    engines = data_plane_states(events)
    waiting = len(events.dirty())
    if json:
        for view in views:
            json_line({"kind": "deployment", **asdict(view)})
        for stream, state in engines.items():
            json_line({"kind": "data plane", "stream": stream, "problems": problems(state)})
    else:
        if views:
            _table(views)
        else:
            console.print("no deployments yet", style="dim")
        for stream, state in engines.items():
            for problem in problems(state):
                console.print(Text(f"{stream}: {plain(problem)}", style="red"))
        console.print(
            f"{_counted(len(views), 'deployment')}, {_counted(waiting, 'stream')} to look at, "
            f"{_counted(events.head(), 'event')}",
            style="dim",
        )
    failed = any(view.failed for view in views) or any(map(problems, engines.values()))
    return FAILED if failed else 0


HEADINGS = ("DEPLOYMENT", "NAMESPACE", "STATUS", "REVISION", "PHASE", "AGE", "REASON")


def _table(views: list[DeploymentSummary]) -> None:
    """Print the deployments; in a narrow terminal a reason has lines of its own."""
    rows = [_row(view) for view in views]
    width = columns() or WIDE
    if width >= WIDE:
        table(HEADINGS, rows)
        return
    made = Table(HEADINGS[:-1], widths(HEADINGS, rows))
    for row in rows:
        made.add(row[:-1])
        for line in fold(str(row[-1]), width - 4) if row[-1] else ():
            console.print(Text(f"    {line}"))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _row(view: DeploymentSummary) -> tuple[str | Text, ...]:
    phase = Text(view.phase or "-", style=COLOURS.get(view.phase, ""))
    if view.stopped:
        phase.append(" (stopped)", style="dim")
    if view.paused:
        phase.append(" (paused)", style="yellow")
    return view.name, view.namespace, view.status, view.revision[:8], phase, age(view.since), _brief(view.reason)


def _brief(reason: str) -> str:
    """Return the first line of a reason, which names the first cause; `agentplane events` has the rest."""
    first = shorten_ids(plain(reason.strip().partition("\n")[0]))
    return first if len(first) <= LONGEST_REASON else f"{first[: LONGEST_REASON - 1]}…"


def problems(state: DataPlaneState) -> list[str]:
    """Return what is wrong with a data plane itself."""
    found = []
    if state.refusal:
        found.append(f"listener refused: {state.refusal}")
    if state.poll_failure:
        found.append(f"polling fails: {state.poll_failure}")
    if state.removing is not None:
        found.append(
            f"is being removed by {state.removing}: nothing is polled; `agentplane uninstall --cancel` takes that back"
        )
    found += [
        f"namespace {namespace} is held by data plane {holder}: nothing is written there; see `agentplane leases`"
        for namespace, holder in sorted(state.leases.items())
        if holder
    ]
    if state.guarded:
        found.append(
            f"{_counted(len(state.guarded), 'deletion')} at once wait for a person: see `agentplane release-deletions`"
        )
    found += [f"{resource} is skipped: {problem}" for resource, problem in sorted(state.rejected.items())]
    return found
