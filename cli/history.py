"""`agentplane events`, `replay`, `export` and `import`: the log, for people and post-mortems."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from rich.text import Text

from cli.log import event_log
from cli.output import FAILED, WIDE, Table, columns, console, errors, json_line, note
from cli.summaries import summary
from engine.errors import AgentplaneError
from engine.event import Record
from engine.log.contract import EventLog
from engine.log.export import export_log, import_log, line, snapshot_line
from engine.log.memory import MemoryLog
from engine.names import lgp_stream
from engine.queries import DeploymentSummary, by_position, everything, find, namesakes, streams_of, timeline
from engine.replay import DATA_PLANE_PREFIX, Replay, Replayer

STYLES = {
    "RevisionFailed": "red",
    "ObjectRejected": "red",
    "LgpRejected": "red",
    "ActRefused": "red",
    "PollFailed": "red",
    "ListenerRefused": "red",
    "AutoscalerUnhealthy": "red",
    "ResourceRejected": "red",
    "DeletionGuardTripped": "red",
    "DriftDetected": "yellow",
    "ActDeferred": "yellow",
    "StatusReportRejected": "yellow",
    "Paused": "yellow",
    "RevisionDeployed": "green",
    "DeploymentDeleted": "green",
    "PollRecovered": "green",
}


COLUMNS = ("POS", "TIME (UTC)", "STREAM", "V", "ACTOR", "EVENT", "WHAT")
BESIDES = frozenset({"V", "ACTOR"})
"""Columns that a narrow terminal does without."""
WIDTHS = {"V": 2, "ACTOR": 8, "EVENT": 20}
"""Least widths, since rows come one at a time."""


class TrimmedLog(AgentplaneError):
    """The log does not have all of its events any more."""


def events(deployment: str | None, *, follow: bool, json: bool) -> None:
    """Print the timeline of a deployment, or of everything; with `follow`, go on until interrupted."""
    log = event_log()
    head = log.head()
    view = find(log, deployment) if deployment else None
    if view is not None:
        for other in namesakes(log, view) if deployment == view.name else ():
            note(f"another deployment of this name: {other.id or other.lgp}{' (deleted)' if other.deleted else ''}")
    show = _write_line if json else _Timeline(view, head).show
    shown: set[str] = set()
    records = everything(log) if view is None else iter(timeline(log, view))
    for record in records:
        show(record)
        if record.position > head:
            shown.add(record.id)
    if follow:
        wanted = set(streams_of(view)) if view is not None else None
        # Ctrl-C is how one ends this, not a failure.
        with suppress(KeyboardInterrupt):
            for record in log.tail(head):
                if (wanted is None or record.stream in wanted) and record.id not in shown:
                    show(record)


def _write_line(record: Record) -> None:
    sys.stdout.write(line(record).decode())
    sys.stdout.flush()


class _Timeline:
    """Records as rows, one at a time."""

    def __init__(self, view: DeploymentSummary | None, head: int) -> None:
        self._view = view
        self._names: dict[str, str] = {}
        """Stream → what people call it, as the events tell it."""
        self._today = datetime.now(UTC).date()
        if view is not None:
            where = f"in {view.namespace}, LGP {view.lgp}" if view.lgp else ""
            console.print(Text(f"{view.name} {f'({view.id}) ' if view.id else ''}{where}"))
        self._narrow = (columns() or WIDE) < WIDE
        shown = [column for column in COLUMNS if not (self._narrow and column in BESIDES)]
        widths = {"POS": len(str(head)), "TIME (UTC)": 8 if self._narrow else 12, "STREAM": 10 if view else 20}
        self._shown = shown
        self._table = Table(shown, [{**WIDTHS, **widths}.get(column, 0) for column in shown])

    def show(self, record: Record) -> None:
        """Print one record."""
        time = record.at.strftime("%H:%M:%S.%f")[: 8 if self._narrow else 12]
        day = "" if record.at.date() == self._today else f"{record.at.date()} "
        row: dict[str, str | Text] = {
            "POS": str(record.position),
            "TIME (UTC)": f"{day}{time}",
            "STREAM": self._stream(record),
            "V": str(record.version),
            "ACTOR": record.actor,
            "EVENT": Text(record.type, style=STYLES.get(record.type, "")),
            "WHAT": summary(record),
        }
        self._table.add([row[column] for column in self._shown])

    def _stream(self, record: Record) -> str:
        kind, _, rest = record.stream.partition("/")
        if self._view is not None or record.stream.startswith(DATA_PLANE_PREFIX):
            return kind
        if record.type == "DeploymentRegistered":
            self._names[record.stream] = record.data["name"]
            self._names[lgp_stream(record.data["namespace"], record.data["lgp"])] = record.data["name"]
        return f"{kind}/{self._names.get(record.stream, rest)}"


# --- replay


def replay(file: Path | None, *, transcript: Path | None, through: int | None, json: bool) -> int:
    """Replay an exported log, or (None) the installation's own; return the exit code. Raises TrimmedLog."""
    log: EventLog = event_log() if file is None else _loaded(file)
    _refuse_trimmed(log.trimmed())
    replayer = Replayer()
    for record in everything(log, through):
        replayer.feed(record)
    result = replayer.finish()
    if transcript is not None:
        transcript.write_bytes(b"".join(entry + b"\n" for entry in result.transcript))
    if json:
        json_line(
            {
                "events": result.events,
                "streams": result.streams,
                "manifests": result.manifests,
                "checked": result.checked,
                "digest": result.digest,
                "divergences": [asdict(divergence) for divergence in result.divergences],
            }
        )
    else:
        _print_replay(result)
    return FAILED if result.divergences else 0


def _loaded(file: Path) -> MemoryLog:
    log = MemoryLog()
    with file.open("rb") as lines:
        import_log(log, lines)
    return log


def _refuse_trimmed(trimmed: Mapping[str, int]) -> None:
    """Decisions can be made again only from the first event on."""
    if trimmed:
        stream, version = sorted(trimmed.items())[0]
        raise TrimmedLog(
            f"{len(trimmed)} streams were trimmed ({stream} through version {version}): put the archives and an export "
            "one after the other into a file, and replay that"
        )


def _print_replay(result: Replay) -> None:
    for divergence in result.divergences:
        errors.print(Text(f"{divergence.stream} version {divergence.version}: {divergence.problem}"))
    count = len(result.divergences)
    verdict = "agree" if not count else f"{count} divergence{'s' if count > 1 else ''}"
    console.print(
        f"{result.events} events of {result.streams} streams replayed: {result.checked} acts and manifests compared "
        f"with the log: {verdict}; {result.manifests} manifests, transcript {result.digest}",
        style="red" if count else None,
    )


# --- export, import


def export(file: Path | None, deployment: str | None) -> None:
    """Write the log, or one deployment's part of it (with the data plane's own stream), as JSON Lines."""
    log = event_log()
    lines = export_log(log) if deployment is None else _part(log, find(log, deployment))
    if file is None:
        _write(sys.stdout.buffer, lines)
    elif file.exists() and not stat.S_ISREG(file.stat().st_mode):
        with file.open("wb") as device:  # a pipe or /dev/stdout cannot be replaced
            _write(device, lines)
    else:
        _write_whole(file, lines)


def _part(log: EventLog, view: DeploymentSummary) -> Iterator[bytes]:
    """Yield the lines of one deployment's streams and of the data planes', whose configuration a replay needs."""
    wanted = {*streams_of(view), *log.streams(DATA_PLANE_PREFIX)}
    for stream, through in sorted(log.trimmed().items()):
        snapshot = log.load_snapshot(stream) if stream in wanted else None
        if snapshot is not None:
            yield snapshot_line(snapshot, through)
    yield from map(line, by_position(log, sorted(wanted)))


def _write_whole(file: Path, lines: Iterable[bytes]) -> None:
    """Write a file whole or not at all: a full disk leaves no component of an export behind."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            _write(stream, lines)
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        error.filename = str(file)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _write(stream: IO[bytes], lines: Iterable[bytes]) -> None:
    for entry in lines:
        stream.write(entry)
    stream.flush()


def import_(file: Path) -> None:
    """Add an exported log to the installation's."""
    with file.open("rb") as lines:
        done = import_log(event_log(), lines)
    console.print(f"{done.added} events added, {done.present} were there already")
