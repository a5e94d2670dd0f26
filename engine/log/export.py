"""Export and import of an event log as JSON Lines.

One line an event, canonical (sorted keys, no spaces), times in RFC 3339, UTC, with microseconds: the same log gives
the same bytes. Ids, versions, positions and times survive, so export → import → export is byte-identical. A stream
whose oldest events were trimmed is preceded by a line with the snapshot that stands for them.

An import is checked as a whole before anything is written, and may be repeated: events that are there already must be
the same in every field. Lines may come in any order, and the same line twice, so the archives of `retention` and an
export can simply be put one after the other. What a cut at the very end of a file took cannot be noticed; everything
else that is missing leaves a gap between versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import islice, pairwise
from typing import Any

import orjson

from engine.digests import canonical
from engine.errors import ImportRefused
from engine.event import Record
from engine.log.contract import EventLog, Snapshot
from engine.log.envelope import from_micros, to_micros

PAGE = 1000
"""Records that an export reads at once."""
BATCH = 200
"""Records that an import adds in one atomic step."""

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did."""

    added: int
    present: int
    """Events that were there already, and the same."""


def export_log(events: EventLog, stream_prefix: str | None = None) -> Iterator[bytes]:
    """Yield the lines of the log, with their line ends: streams that start with `stream_prefix`, or all.

    What is appended while it runs is left out.
    """
    head = events.head()
    for stream, through in sorted(events.trimmed().items()):
        if stream.startswith(stream_prefix or ""):
            snapshot = events.load_snapshot(stream)
            if snapshot is not None:
                yield snapshot_line(snapshot, through)
    position = 0
    while position < head:
        page = events.read_all(position, PAGE)
        for record in page:
            if record.position <= head and record.stream.startswith(stream_prefix or ""):
                yield line(record)
        position = page[-1].position if page else head


def line(record: Record) -> bytes:
    """Return the line of one event."""
    envelope = {field.name: getattr(record, field.name) for field in fields(record)}
    return canonical(envelope | {"at": _time(record.at)}) + b"\n"


def snapshot_line(snapshot: Snapshot, through: int) -> bytes:
    """Return the line that stands for the events of a stream up to version `through`."""
    kept = {
        "stream": snapshot.stream,
        "version": snapshot.version,
        "fingerprint": snapshot.fingerprint,
        "state": orjson.loads(snapshot.state),
        "trimmed": through,
    }
    return canonical({"snapshot": kept}) + b"\n"


def import_log(events: EventLog, lines: Iterable[bytes]) -> Imported:
    """Add the events of `lines`; return how many were new.

    Raises ImportRefused, naming line and field, before anything is written: for a damaged line, a gap between versions,
    an event that differs from the one that is there, or one whose position the log has passed.
    """
    batch = _parsed(lines)
    current = events.versions()
    trimmed = _beginnings(batch, current)
    new = _new(events, batch, current, trimmed)
    for snapshot, through in trimmed.values():
        events.restore_trimmed(snapshot, through)
    remaining = iter(new)
    while some := list(islice(remaining, BATCH)):
        events.restore(some)
    return Imported(added=len(new), present=len(batch.records) - len(new))


# --- reading lines


@dataclass(frozen=True, slots=True)
class _Batch:
    """The content of a file: records by position, with the number of their line."""

    records: list[tuple[int, Record]]
    snapshots: list[tuple[Snapshot, int]]
    """With the version of the last event that they stand for."""


def _parsed(lines: Iterable[bytes]) -> _Batch:
    records: dict[tuple[str, int], tuple[int, Record]] = {}
    snapshots: list[tuple[Snapshot, int]] = []
    for number, text in enumerate(lines, 1):
        value = _object(number, text)
        if set(value) == {"snapshot"}:
            snapshots.append(_snapshot(number, value["snapshot"]))
            continue
        record = _record(number, value)
        first_number, first = records.setdefault((record.stream, record.version), (number, record))
        if first != record:
            raise ImportRefused(
                f"line {number}: field {_difference(first, record)}: differs from line {first_number}, "
                f"which is {record.stream} version {record.version} too"
            )
    ordered = sorted(records.values(), key=lambda numbered: numbered[1].position)
    for (_, earlier), (number, record) in pairwise(ordered):
        if earlier.position == record.position:
            raise ImportRefused(f"line {number}: field position: {record.position} belongs to another event too")
    return _Batch(ordered, snapshots)


def _object(number: int, text: bytes) -> dict[str, Any]:
    content = text.removesuffix(b"\n")
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ImportRefused(f"line {number}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ImportRefused(f"line {number}: is not a JSON object")
    if canonical(value) != content:
        raise ImportRefused(f"line {number}: is not canonical JSON (sorted keys, no spaces): it was changed by hand")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and _time(_moment(value)) == value
    except ValueError:
        return False


ENVELOPE: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_text, "a text"),
    "stream": (_is_text, "the name of a stream"),
    "version": (_is_count, "a number from 1"),
    "position": (_is_count, "a number from 1"),
    "type": (_is_text, "the name of an event type"),
    "schema_version": (_is_count, "a number from 1"),
    "at": (_is_time, "a time like 2026-01-31T12:00:00.000000Z"),
    "actor": (_is_text, "a text"),
    "cause": (lambda value: value is None or isinstance(value, str), "a text or null"),
    "data": (lambda value: isinstance(value, dict), "an object"),
}
"""Every field of an event's line: what it must be, in code and for people."""

SNAPSHOT: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "stream": ENVELOPE["stream"],
    "version": ENVELOPE["version"],
    "fingerprint": (_is_text, "a text"),
    "state": (lambda value: isinstance(value, dict), "an object"),
    "trimmed": (_is_count, "a number from 1"),
}


def _check(number: int, value: object, schema: Mapping[str, tuple[Callable[[Any], bool], str]]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImportRefused(f"line {number}: field snapshot: is not an object")
    for name in sorted(schema.keys() ^ value.keys()):
        raise ImportRefused(f"line {number}: field {name}: {'is missing' if name in schema else 'is unknown'}")
    for name, (holds, expected) in schema.items():
        if not holds(value[name]):
            raise ImportRefused(f"line {number}: field {name}: is not {expected}")
    return value


def _record(number: int, value: dict[str, Any]) -> Record:
    checked = _check(number, value, ENVELOPE)
    return Record(**(checked | {"at": _moment(checked["at"])}))


def _snapshot(number: int, value: object) -> tuple[Snapshot, int]:
    checked = _check(number, value, SNAPSHOT)
    if checked["trimmed"] > checked["version"]:
        raise ImportRefused(f"line {number}: field trimmed: is past the version of the snapshot")
    snapshot = Snapshot(
        stream=checked["stream"],
        version=checked["version"],
        fingerprint=checked["fingerprint"],
        state=canonical(checked["state"]),
    )
    return snapshot, checked["trimmed"]


# --- comparing with the log


def _beginnings(batch: _Batch, current: Mapping[str, int]) -> dict[str, tuple[Snapshot, int]]:
    """Return the snapshots of streams that neither the file nor the log has from their first event."""
    first = {record.stream: record.version for _, record in sorted(batch.records, key=lambda n: -n[1].version)}
    return {
        snapshot.stream: (snapshot, through)
        for snapshot, through in batch.snapshots
        if snapshot.stream not in current and first.get(snapshot.stream) == through + 1
    }


def _new(
    events: EventLog,
    batch: _Batch,
    current: Mapping[str, int],
    trimmed: Mapping[str, tuple[Snapshot, int]],
) -> list[Record]:
    """Return the records that the log does not have, having compared the others."""
    known = {record.stream: 0 for _, record in batch.records if record.stream in current}
    kept = {stream: {r.version: r for r in records} for stream, records in events.read_many(known).items()}
    versions = dict(current) | {stream: through for stream, (_, through) in trimmed.items()}
    head = events.head()
    new: list[Record] = []
    for number, record in batch.records:
        if record.version <= current.get(record.stream, 0):
            there = kept[record.stream].get(record.version)
            if there is not None and there != record:
                raise ImportRefused(
                    f"line {number}: field {_difference(there, record)}: differs from {record.stream} version "
                    f"{record.version} in the log"
                )
            continue  # trimmed from this log, or the same
        at = versions.get(record.stream, 0)
        if record.version != at + 1:
            raise ImportRefused(
                f"line {number}: field version: {record.stream} version {record.version} cannot follow version {at}"
            )
        if record.position <= head:
            raise ImportRefused(
                f"line {number}: field position: the log is at {head} and does not have {record.position}; import "
                "into an empty log"
            )
        versions[record.stream] = record.version
        new.append(record)
    return new


def _difference(one: Record, other: Record) -> str:
    return next(field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name))


def _time(at: datetime) -> str:
    return from_micros(to_micros(at)).strftime(TIME)


def _moment(text: str) -> datetime:
    if not text.endswith("Z"):
        raise ValueError(text)
    return datetime.fromisoformat(text)
