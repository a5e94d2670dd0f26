"""Export and import of an event log as JSON Lines.

    {"agentplane_export":1}                          header: the format of the lines below it
    {"snapshot":{"stream":…,"trimmed":…,…}}          stands for the trimmed beginning of a stream
    {"actor":…,"at":…,"cause":…,"data":{…},…}        one event

Each line is canonical JSON (sorted keys, no spaces). Times are RFC 3339, UTC, with microseconds. So two exports of the
same log are the same bytes. Ids, versions, positions and times survive an import, so export → import → export gives
the same bytes too.

An import checks the whole file before it writes anything, and may be repeated: an event that the log already has must
be the same in every field. The lines below a header may come in any order, and a line may come twice. A file may have
several headers, so archives of `retention` and an export can be put one after the other into one file. A line that is
missing leaves a gap between versions, which an import reports; only lines that are cut off at the end of a file leave
no trace.

To add a column to the line of an event: a row in COLUMNS, which says what a line holds and checks it on import, and the
field of `Record` (`engine/event.py`) that it is taken from, which both logs store (`redis.py`, `memory.py`). That is a
change of the format.

A change of the format raises FORMAT by one and adds one step to UPCASTS, which turns a line of the format before into a
line of the new one. The data of an event has a schema version of its own (`engine/event.py`), and stays as it was
appended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice, pairwise

import orjson

from engine.digests import canonical
from engine.errors import ImportRefused
from engine.event import JsonObject, Record
from engine.log.contract import EventLog, Snapshot
from engine.log.envelope import from_micros, to_micros

HEADER = "agentplane_export"
"""The only field of a header line."""
FORMAT = 1
"""The format that an export writes."""

PAGE = 1000
"""Records that an export reads at once."""
RECORDS_PER_STEP = 200
"""Records that an import adds in one atomic step."""

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did."""

    added: int
    present: int
    """Events that the log had already."""
    archived: int = 0
    """Events that were archived from this log, and are therefore not added."""


def header() -> bytes:
    """Return the first line of an export or an archive."""
    return canonical({HEADER: FORMAT}) + b"\n"


def export_log(events: EventLog, stream_prefix: str | None = None) -> Iterator[bytes]:
    """Yield the lines of an export, with their line ends: of the streams that start with `stream_prefix`, or of all.

    Events that are appended while the export runs are left out.
    """
    yield header()
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


def export_streams(events: EventLog, streams: Iterable[str]) -> Iterator[bytes]:
    """Yield the lines of an export of `streams`, with their line ends."""
    chosen = sorted(streams)
    yield header()
    trimmed = events.trimmed()
    for stream in chosen:
        snapshot = events.load_snapshot(stream) if stream in trimmed else None
        if snapshot is not None:
            yield snapshot_line(snapshot, trimmed[stream])
    records = events.read_many(dict.fromkeys(chosen, 0)).values()
    yield from map(line, merge(*records, key=lambda record: record.position))


def line(record: Record) -> bytes:
    """Return the line of one event."""
    columns: JsonObject = {name: getattr(record, name) for name in COLUMNS}
    return canonical(columns | {"at": _time(record.at)}) + b"\n"


def snapshot_line(snapshot: Snapshot, through: int) -> bytes:
    """Return the line with the snapshot that stands for the events of a stream up to version `through`."""
    kept = {
        "stream": snapshot.stream,
        "version": snapshot.version,
        "fingerprint": snapshot.fingerprint,
        "state": orjson.loads(snapshot.state),
        "trimmed": through,
    }
    return canonical({"snapshot": kept}) + b"\n"


def import_log(events: EventLog, lines: Iterable[bytes]) -> Imported:
    """Add the events of `lines` to the log; return how many were new.

    Raises ImportRefused, which names line and field, before anything is written: for a newer format, a damaged line, a
    gap between versions, an event that differs from the log's event of that version, or a new event whose position is
    not after the log's head.
    """
    batch = _parsed(lines)
    current = events.versions()
    trimmed = _beginnings(batch, current)
    new, archived = _new(events, batch, current, trimmed)
    for snapshot, through in trimmed.values():
        events.restore_trimmed(snapshot, through)
    remaining = iter(new)
    while some := list(islice(remaining, RECORDS_PER_STEP)):
        events.restore(some)
    return Imported(added=len(new), present=len(batch.records) - len(new) - archived, archived=archived)


# --- reading lines


@dataclass(frozen=True, slots=True)
class _Batch:
    """The content of a file: records by position, with the number of their line."""

    records: list[tuple[int, Record]]
    snapshots: list[tuple[Snapshot, int]]
    """Each with the version of the last event that it stands for."""


def _parsed(lines: Iterable[bytes]) -> _Batch:
    records: dict[tuple[str, int], tuple[int, Record]] = {}
    snapshots: list[tuple[Snapshot, int]] = []
    version = 0  # until a header says more
    for number, text in enumerate(lines, 1):
        value = _object(number, text)
        if set(value) == {HEADER}:
            version = _format(number, value[HEADER])
            continue
        value = _upcast(value, version)
        if set(value) == {"snapshot"}:
            snapshots.append(_snapshot(number, value["snapshot"]))
            continue
        record = _record(number, value)
        first_number, first = records.setdefault((record.stream, record.version), (number, record))
        if first != record:
            raise ImportRefused(
                f"line {number}: field {_difference(first, record)}: differs from line {first_number}, "
                f"which is {record.stream} version {record.version} as well"
            )
    ordered = sorted(records.values(), key=lambda numbered: numbered[1].position)
    for (_, earlier), (number, record) in pairwise(ordered):
        if earlier.position == record.position:
            raise ImportRefused(f"line {number}: field position: {record.position} belongs to another event as well")
    return _Batch(ordered, snapshots)


def _format(number: int, version: object) -> int:
    if not isinstance(version, int) or not _is_count(version):
        raise ImportRefused(f"line {number}: field {HEADER}: is not a number from 1")
    if version > FORMAT:
        raise ImportRefused(
            f"line {number}: field {HEADER}: the file has format {version}, this version of agentplane reads formats "
            f"up to {FORMAT}; upgrade agentplane"
        )
    return version


def _upcast(value: JsonObject, version: int) -> JsonObject:
    """Return a line of format `version` in the current format, through every format in between."""
    for before in range(version, FORMAT):
        value = UPCASTS[before](value)
    return value


def upcast_v0_v1(value: JsonObject) -> JsonObject:
    """Format 0 had no header; its lines are those of format 1."""
    return value


UPCASTS: Mapping[int, Callable[[JsonObject], JsonObject]] = {0: upcast_v0_v1}
"""Format → step to the next format; one step for each format below FORMAT."""


def _object(number: int, text: bytes) -> JsonObject:
    content = text.removesuffix(b"\n")
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ImportRefused(f"line {number}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ImportRefused(f"line {number}: is not a JSON object")
    if canonical(value) != content:
        raise ImportRefused(f"line {number}: is not canonical JSON (sorted keys, no spaces); it was edited")
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


Check = Callable[[object], bool]

COLUMNS: Mapping[str, tuple[Check, str]] = {
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
"""The columns of an event's line, each a field of `Record`: the check of its value, and what the value must be, for a
person."""

SNAPSHOT: Mapping[str, tuple[Check, str]] = {
    "stream": COLUMNS["stream"],
    "version": COLUMNS["version"],
    "fingerprint": (_is_text, "a text"),
    "state": (lambda value: isinstance(value, dict), "an object"),
    "trimmed": (_is_count, "a number from 1"),
}


def _check(number: int, value: object, schema: Mapping[str, tuple[Check, str]]) -> JsonObject:
    if not isinstance(value, dict):
        raise ImportRefused(f"line {number}: field snapshot: is not an object")
    for name in sorted(schema.keys() ^ value.keys()):
        raise ImportRefused(f"line {number}: field {name}: {'is missing' if name in schema else 'is unknown'}")
    for name, (holds, expected) in schema.items():
        if not holds(value[name]):
            raise ImportRefused(f"line {number}: field {name}: is not {expected}")
    return value


def _record(number: int, value: JsonObject) -> Record:
    checked = _check(number, value, COLUMNS)
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
    """Return the snapshots of the streams whose first event is neither in the file nor in the log."""
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
) -> tuple[list[Record], int]:
    """Return the records to add, and how many were archived from the log; compare the others with the log's."""
    known = {record.stream: 0 for _, record in batch.records if record.stream in current}
    kept = {stream: {r.version: r for r in records} for stream, records in events.read_many(known).items()}
    versions = dict(current) | {stream: through for stream, (_, through) in trimmed.items()}
    head = events.head()
    new: list[Record] = []
    archived = 0
    for number, record in batch.records:
        if record.version <= current.get(record.stream, 0):
            there = kept[record.stream].get(record.version)
            if there is not None and there != record:
                raise ImportRefused(
                    f"line {number}: field {_difference(there, record)}: differs from {record.stream} version "
                    f"{record.version} in the log"
                )
            archived += there is None
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
    return new, archived


def _difference(one: Record, other: Record) -> str:
    return next(name for name in COLUMNS if getattr(one, name) != getattr(other, name))


def _time(at: datetime) -> str:
    return from_micros(to_micros(at)).strftime(TIME)


def _moment(text: str) -> datetime:
    if not text.endswith("Z"):
        raise ValueError(text)
    return datetime.fromisoformat(text)
