"""`agentplane status`: the deployments, and what is wrong with the data plane itself.

COLUMNS is the table of columns: to change what a row says, for example of a paused deployment, change a cell function.
`problems` lists what is wrong with a data plane. What a deployment's reason says is computed in engine/queries.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.text import Text

from cli.log import event_log
from cli.output import FAILED, WIDE, Table, age, columns, console, counted, fold, json_line, table, widths
from cli.summaries import plain, shorten_ids
from engine.dataplane.state import DataPlaneState
from engine.log.contract import EventLog
from engine.queries import DeploymentSummary, data_plane_states, deployments, streams_of

STYLES = {
    "DEPLOYED": "green",
    "AVAILABLE": "green",
    "DEPLOY_FAILED": "red",
    "DEGRADED": "red",
    "DEPLOYING": "yellow",
    "AWAITING_DEPLOY": "yellow",
    "QUEUED": "yellow",
    "PROGRESSING": "yellow",
}
"""Colour of a phase."""

LONGEST_REASON = 240
"""Characters of a reason in the table."""


# --- the columns


def _phase(summary: DeploymentSummary) -> Text:
    phase = Text(summary.phase or "-", style=STYLES.get(summary.phase, ""))
    states = [word for word, holds in (("stopped", summary.stopped), ("paused", summary.paused)) if holds]
    if states:
        phase.append(f" ({', '.join(states)})", style="yellow" if summary.paused else "dim")
    return phase


def _reason(summary: DeploymentSummary) -> str:
    """Return the first line of a reason, which names the first cause; `agentplane events` has the rest."""
    first = shorten_ids(plain(summary.reason.strip().partition("\n")[0]))
    return first if len(first) <= LONGEST_REASON else f"{first[: LONGEST_REASON - 1]}…"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table."""

    heading: str
    cell: Callable[[DeploymentSummary], str | Text]


COLUMNS = (
    Column("DEPLOYMENT", lambda summary: summary.name),
    Column("NAMESPACE", lambda summary: summary.namespace),
    Column("STATUS", lambda summary: summary.status),
    Column("REVISION", lambda summary: summary.revision[:8]),
    Column("PHASE", _phase),
    Column("AGE", lambda summary: age(summary.since)),
    Column("REASON", _reason),
)
"""Every column; the last one has lines of its own in a narrow terminal."""


# --- the command


def show(*, json: bool, deleted: bool) -> int:
    """Print the deployments and the problems of the data plane; return 1 if a deployment failed or a problem exists.

    As JSON: a line for each deployment (`kind` is `deployment`), then one for each data plane (`data plane`).
    """
    events = event_log()
    known = deployments(events, deleted=True)
    shown = [summary for summary in known if deleted or not summary.deleted]
    data_planes = data_plane_states(events)
    if json:
        for summary in shown:
            json_line({"kind": "deployment", **asdict(summary)})
        for stream, state in data_planes.items():
            json_line({"kind": "data plane", "stream": stream, "problems": problems(state)})
    else:
        if shown:
            _print(shown)
        else:
            console.print(_none(known), style="dim")
        for stream, state in data_planes.items():
            for problem in problems(state):
                console.print(Text(f"{stream}: {plain(problem)}", style="red"))
        console.print(
            f"{counted(len(shown), 'deployment')}; {_waiting(events, known)} waiting for a worker; "
            f"last position {events.head()}",
            style="dim",
        )
    failed = any(summary.failed for summary in shown) or any(map(problems, data_planes.values()))
    return FAILED if failed else 0


def _print(summaries: Sequence[DeploymentSummary]) -> None:
    """Print the table; in a narrow terminal the last column has lines of its own."""
    headings = [column.heading for column in COLUMNS]
    rows = [[column.cell(summary) for column in COLUMNS] for summary in summaries]
    width = columns() or WIDE
    if width >= WIDE:
        table(headings, rows)
        return
    narrow = Table(headings[:-1], widths(headings, rows))
    for row in rows:
        narrow.add(row[:-1])
        for line in fold(str(row[-1]), width - 4) if row[-1] else ():
            console.print(Text(f"    {line}"))


def _none(known: Sequence[DeploymentSummary]) -> str:
    """Return what to say when no deployment is shown."""
    return f"no live deployments ({len(known)} deleted; see --deleted)" if known else "no deployments yet"


def _waiting(events: EventLog, known: Sequence[DeploymentSummary]) -> str:
    """Return how many deployments have a stream that no worker has brought up to date yet (a dirty stream).

    A stream that belongs to no known deployment, for example the data plane's own, counts by itself.
    """
    owners = {stream: (summary.id, summary.lgp) for summary in known for stream in streams_of(summary)}
    waiting = {owners.get(stream, ("", stream)) for stream in events.dirty()}
    return f"{counted(len(waiting), 'deployment')} {'is' if len(waiting) == 1 else 'are'}"


def problems(state: DataPlaneState) -> list[str]:
    """Return what is wrong with a data plane itself."""
    found = []
    if state.refusal:
        found.append(f"listener refused: {state.refusal}")
    if state.poll_failure:
        found.append(f"polling fails: {state.poll_failure}")
    if state.removing is not None:
        found.append(
            f"removal requested by {state.removing}, so polls have stopped; to cancel: `agentplane uninstall --cancel`"
        )
    found += [
        f"namespace {namespace} is held by data plane {holder}: nothing is written there; see `agentplane leases`"
        for namespace, holder in sorted(state.leases.items())
        if holder
    ]
    if state.guarded:
        waiting = counted(len(state.guarded), "deletion")
        found.append(f"{waiting} on hold, because they are too many at once: see `agentplane release-deletions`")
    found += [f"{resource} is skipped: {problem}" for resource, problem in sorted(state.rejected.items())]
    return found
