"""Events: what happened, as small frozen values that validate themselves, and the record the log keeps of them.

An event class is its own schema: field types validate on the way in and on the way out. A change of shape raises
`schema_version` and teaches `upcast` the way from older data; the log itself never rewrites what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import FutureEvent

Json = Any
"""A JSON value: None, bool, int, float, str, list or dict with string keys."""


class Event(BaseModel):
    """Base of all events. The class name is the event type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: ClassVar[int] = 1

    @classmethod
    def upcast(cls, data: dict[str, Json], schema_version: int) -> dict[str, Json]:
        """Return `data` of an older `schema_version` in today's shape."""
        return data

    @property
    def type(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event as the log keeps it."""

    id: str
    """Unique over all logs."""
    stream: str
    """`deployment/<id>`, `lgp/<namespace>/<name>` or `dataplane/<listener id>`."""
    version: int
    """Place in the stream, from 1."""
    position: int
    """Place in the log of everything, from 1; grows, may skip."""
    type: str
    schema_version: int
    at: datetime
    """UTC, when it was appended."""
    actor: str
    """Which process appended it: `poll`, `listener`, `operator`, `watcher`, `cli`."""
    cause: str | None
    """What led to it: the name of the act, or the id of an earlier record."""
    data: dict[str, Json]


class Registry:
    """The event classes of one kind of stream, by type."""

    def __init__(self, *classes: type[Event]) -> None:
        self._classes: Mapping[str, type[Event]] = {cls.__name__: cls for cls in classes}

    @property
    def classes(self) -> frozenset[type[Event]]:
        """The event classes of this kind of stream."""
        return frozenset(self._classes.values())

    def decode(self, record: Record) -> Event:
        """Return the typed event of `record`, upcast where it is old.

        Raises FutureEvent for a type, schema version or shape that this program does not know.
        """
        where = f"{record.stream} version {record.version}"
        cls = self._classes.get(record.type)
        if cls is None:
            raise FutureEvent(
                f"{where}: this version of agentplane does not know events of type {record.type!r}; upgrade it"
            )
        if record.schema_version > cls.schema_version:
            raise FutureEvent(
                f"{where}: {record.type} has schema version {record.schema_version}, this version of agentplane "
                f"knows up to {cls.schema_version}; upgrade it"
            )
        data = record.data
        if record.schema_version < cls.schema_version:
            data = cls.upcast(dict(data), record.schema_version)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise FutureEvent(f"{where}: {record.type} does not have the shape this version knows: {error}") from error
