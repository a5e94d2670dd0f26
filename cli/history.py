"""`agentplane events`, `replay`, `export` and `import`: the log, for people and post-mortems."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from rich.text import Text

from cli.log import event_log
from cli.output import FAILED, console, errors, json_line, table
from engine.event import Record
from engine.log.contract import EventLog
from engine.log.memory import MemoryLog
from engine.log.transfer import export_log, import_log, line
from engine.replay import Replay, Replayer
from engine.views import DeploymentView, find, streams_of, summary, timeline

LOUD = {
    "RevisionFailed": "red",
    "ObjectRejected": "red",
    "LgpRejected": "red",
    "ActRefused": "red",
    "PollFailed": "red",
    "DriftDetected": "yellow",
    "ActDeferred": "yellow",
    "RevisionDeployed": "green",
    "DeploymentDeleted": "green",
    "PollRecovered": "green",
}


def events(deployment: str | None, *, follow: bool, json: bool) -> None:
    """Print the timeline of a deployment, or of everything; with `follow`, go on until interrupted."""
    log = event_log()
    view = find(log, deployment) if deployment else None
    records = timeline(log, view)
    if json:
        for record in records:
            _write_line(record)
    else:
        if view is not None:
            console.print(f"{view.name} ({view.id}) in {view.namespace}, LGP {view.lgp}", soft_wrap=True)
        table(("POS", "TIME", "STREAM", "V", "ACTOR", "EVENT", "WHAT"), map(_row, records))
    if follow:
        _follow(log, view, records, json=json)


def _follow(log: EventLog, view: DeploymentView | None, seen: list[Record], *, json: bool) -> None:
    wanted = set(streams_of(view)) if view is not None else None
    try:
        for record in log.tail(seen[-1].position if seen else None):
            if wanted is not None and record.stream not in wanted:
                continue
            if json:
                _write_line(record)
            else:
                console.print(
                    Text("  ").join(Text(str(cell)) if isinstance(cell, str) else cell for cell in _row(record))
                )
    except KeyboardInterrupt:
        pass


def _write_line(record: Record) -> None:
    sys.stdout.write(line(record).decode())
    sys.stdout.flush()


def _row(record: Record) -> tuple[str | Text, ...]:
    kind = record.stream.split("/", 1)[0]
    return (
        str(record.position),
        record.at.strftime("%H:%M:%S.%f")[:-3],
        kind,
        str(record.version),
        record.actor,
        Text(record.type, style=LOUD.get(record.type, "")),
        Text(summary(record)),
    )


# --- replay


def replay(file: Path | None, *, transcript: Path | None, through: int | None, json: bool) -> int:
    """Replay an exported log, or (None) the installation's own; return the exit code."""
    log: EventLog = event_log() if file is None else _loaded(file)
    replayer = Replayer()
    for record in _records(log, through):
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


def _records(log: EventLog, through: int | None) -> Iterator[Record]:
    position = 0
    while page := log.read_all(position):
        for record in page:
            if through is not None and record.position > through:
                return
            yield record
        position = page[-1].position


def _print_replay(result: Replay) -> None:
    for divergence in result.divergences:
        errors.print(f"{divergence.stream} version {divergence.version}: {divergence.problem}", markup=False)
    verdict = "agree" if not result.divergences else f"{len(result.divergences)} divergences"
    console.print(
        f"{result.events} events of {result.streams} streams replayed: {result.checked} acts and manifests compared "
        f"with the log: {verdict}; {result.manifests} manifests, transcript {result.digest}",
        soft_wrap=True,
    )


# --- export, import


def export(file: Path | None, deployment: str | None) -> None:
    """Write the log, or one deployment's part of it (with the data plane's own stream), as JSON Lines."""
    log = event_log()
    lines: Iterable[bytes] = export_log(log)
    if deployment is not None:
        wanted = set(streams_of(find(log, deployment)))
        records = timeline(log, None)
        lines = (line(r) for r in records if r.stream in wanted or r.stream.startswith("engine/"))
    if file is None:
        _write(sys.stdout.buffer, lines)
        return
    # Whole or not at all: a full disk leaves no half of an export behind.
    partial = file.with_name(f"{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            _write(stream, lines)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _write(stream: IO[bytes], lines: Iterable[bytes]) -> None:
    for entry in lines:
        stream.write(entry)


def import_(file: Path) -> None:
    """Add an exported log to the installation's."""
    with file.open("rb") as lines:
        done = import_log(event_log(), lines)
    console.print(f"{done.added} events added, {done.present} were there already")
