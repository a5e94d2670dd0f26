"""`agentplane events`: the timeline of one deployment (listener and operator), or of everything in the log.

COLUMNS is the table of columns, STYLES has the colours of events. The text of the last column is in cli/summaries.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.text import Text

from cli.log import event_log
from cli.output import WIDE, Table, columns, console, note
from cli.summaries import FORMATTERS, Summaries
from engine.dataplane.events import (
    DeletionGuardTripped,
    ListenerRefused,
    PollFailed,
    PollRecovered,
    ResourceRejected,
)
from engine.event import Event, Record
from engine.listener import events as listener
from engine.log.contract import EventLog
from engine.log.export import line
from engine.names import DATA_PLANE_PREFIX, lgp_stream
from engine.operator import events as operator
from engine.queries import DeploymentSummary, deployments, everything, find, namesakes, streams_of, timeline
from engine.runtime.backoff import ActDeferred, ActRefused

STYLES: dict[type[Event], str] = {
    listener.RevisionFailed: "red",
    listener.LgpRejected: "red",
    operator.ObjectRejected: "red",
    operator.AutoscalerUnhealthy: "red",
    ActRefused: "red",
    PollFailed: "red",
    ListenerRefused: "red",
    ResourceRejected: "red",
    DeletionGuardTripped: "red",
    listener.DriftDetected: "yellow",
    operator.DriftDetected: "yellow",
    listener.StatusReportRejected: "yellow",
    listener.Paused: "yellow",
    ActDeferred: "yellow",
    listener.RevisionDeployed: "green",
    listener.DeploymentDeleted: "green",
    PollRecovered: "green",
}
"""Colour of an event; all others have none."""
_STYLE_OF = {event.__name__: style for event, style in STYLES.items()}


def show(deployment: str | None, *, follow: bool, json: bool) -> None:
    """Print the timeline of a deployment, or of everything; with `follow`, go on until interrupted.

    Raises UnknownDeployment.
    """
    log = event_log()
    head = log.head()
    summary = find(log, deployment) if deployment else None
    if summary is not None:
        for other in namesakes(log, summary) if deployment == summary.name else ():
            note(f"another deployment of this name: {other.id or other.lgp}{' (deleted)' if other.deleted else ''}")
    print_record = _write_line if json else Timeline(log, summary, head).print
    printed: set[str] = set()
    records = everything(log) if summary is None else iter(timeline(log, summary))
    for record in records:
        print_record(record)
        if record.position > head:
            printed.add(record.id)
    if follow:
        streams = set(streams_of(summary)) if summary is not None else None
        # Ctrl-C is the way to end this, not a failure.
        with suppress(KeyboardInterrupt):
            for record in log.tail(head):
                if (streams is None or record.stream in streams) and record.id not in printed:
                    print_record(record)


def _write_line(record: Record) -> None:
    sys.stdout.write(line(record).decode())
    sys.stdout.flush()


class Timeline:
    """Prints records as rows, one at a time."""

    def __init__(self, log: EventLog, summary: DeploymentSummary | None, head: int) -> None:
        """`summary` is the deployment of which all records are, None for records of everything; `head` the last
        position now, which gives the width of the column."""
        self._one = summary is not None
        self._names: dict[str, str] = {}
        """Name of the deployment that a stream belongs to: those of the log, then those of printed events."""
        if summary is None:
            for known in deployments(log, deleted=True):
                self._names |= dict.fromkeys(streams_of(known), known.name)
        self._summaries = Summaries()
        self._today = datetime.now(UTC).date()
        if summary is not None:
            where = f"in {summary.namespace}, LGP {summary.lgp}" if summary.lgp else ""
            console.print(Text(f"{summary.name} {f'({summary.id}) ' if summary.id else ''}{where}"))
        self._narrow = (columns() or WIDE) < WIDE
        self._shown = [column for column in COLUMNS if not (self._narrow and column.only_wide)]
        widths = {
            "POS": len(str(head)),
            "TIME (UTC)": 8 if self._narrow else 12,
            "STREAM": 10 if self._one else 20 if self._narrow else self._widest(),
        }
        self._table = Table(
            [column.heading for column in self._shown],
            [widths.get(column.heading, column.width) for column in self._shown],
        )

    def _widest(self) -> int:
        """Return the width of the column STREAM in a timeline of everything, as far as the names are known."""
        labels = (f"{stream.partition('/')[0]}/{name}" for stream, name in self._names.items())
        return max(map(len, labels), default=20)

    def print(self, record: Record) -> None:
        """Print one record."""
        self._table.add([column.cell(self, record) for column in self._shown])

    def time(self, record: Record) -> str:
        time = record.at.strftime("%H:%M:%S.%f")[: 8 if self._narrow else 12]
        return time if record.at.date() == self._today else f"{record.at.date()} {time}"

    def stream(self, record: Record) -> str:
        """Return the kind of the stream; in a timeline of everything with the name of the deployment or LGP."""
        kind, _, rest = record.stream.partition("/")
        if self._one or record.stream.startswith(DATA_PLANE_PREFIX):
            return kind
        if record.type == listener.DeploymentRegistered.__name__:
            self._names[record.stream] = record.data["name"]
            self._names[lgp_stream(record.data["namespace"], record.data["lgp"])] = record.data["name"]
        return f"{kind}/{self._names.get(record.stream, rest)}"

    def summary(self, record: Record) -> str:
        return self._summaries.summary(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the timeline."""

    heading: str
    cell: Callable[[Timeline, Record], str | Text]
    width: int = 0
    """Least width, in characters: rows come one at a time, so the widest cell is not known."""
    only_wide: bool = False
    """Left out of a narrow terminal."""


COLUMNS = (
    Column(heading="POS", cell=lambda _, record: str(record.position)),
    Column(heading="TIME (UTC)", cell=Timeline.time),
    Column(heading="STREAM", cell=Timeline.stream),
    Column(heading="V", cell=lambda _, record: str(record.version), width=2, only_wide=True),
    Column(heading="ACTOR", cell=lambda _, record: record.actor, width=8, only_wide=True),
    Column(
        heading="EVENT",
        cell=lambda _, record: Text(record.type, style=_STYLE_OF.get(record.type, "")),
        width=max(len(event.__name__) for event in FORMATTERS),
    ),
    Column(heading="WHAT", cell=Timeline.summary),
)
"""Every column."""
