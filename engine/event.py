"""Events: what happened, as small frozen values that validate themselves, and the record that the log keeps of each.

An event class is its own schema: the types of its fields validate data that is written and data that is read. A change
of shape raises `schema_version` by one and adds one step to `upcasts`, which turns data of the version before into
data of the new one. The log never rewrites the data that it holds: `Registry.decode` upcasts old data at each read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import FutureEvent

Json: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, list or dict with string keys."""
JsonObject: TypeAlias = dict[str, Json]
"""A JSON object."""

Upcast = Callable[[JsonObject], JsonObject]
"""Returns the data of an event in the shape of the next schema version."""


class Event(BaseModel):
    """Base of all events. The class name is the event's type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: ClassVar[int] = 1
    upcasts: ClassVar[Mapping[int, Upcast]] = {}
    """Schema version → step to the next version; one step for each version below `schema_version`."""

    @classmethod
    def upcast(cls, data: JsonObject, schema_version: int) -> JsonObject:
        """Return `data` of `schema_version` in the current shape, through every version in between."""
        for version in range(schema_version, cls.schema_version):
            data = cls.upcasts[version](data)
        return data

    @property
    def type(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event as the log keeps it."""

    id: str
    """Unique among the events of all logs."""
    stream: str
    """`deployment/<id>`, `lgp/<namespace>/<name>` or `dataplane/<listener id>`."""
    version: int
    """The event's number in its stream, from 1."""
    position: int
    """The event's place in the log of everything, from 1. Positions grow and may have gaps."""
    type: str
    """Name of the event's class."""
    schema_version: int
    at: datetime
    """When the event was appended (UTC)."""
    actor: str
    """Who appended the event: `poll`, `listener`, `operator`, `watcher`, `dataplane` or `cli`."""
    cause: str | None
    """Name of the act that the event comes from, or id of an earlier record."""
    data: JsonObject


class Registry:
    """The event classes of one kind of stream, by type."""

    def __init__(self, *classes: type[Event]) -> None:
        """Raises TypeError for a class that lacks a step to its schema version."""
        for cls in classes:
            if set(cls.upcasts) != set(range(1, cls.schema_version)):
                raise TypeError(f"{cls.__name__}.upcasts must have a step for each version below {cls.schema_version}")
        self._classes: Mapping[str, type[Event]] = {cls.__name__: cls for cls in classes}

    @property
    def classes(self) -> frozenset[type[Event]]:
        """The event classes of this kind of stream."""
        return frozenset(self._classes.values())

    def decode(self, record: Record) -> Event:
        """Return the event of `record`; data of an older schema version is upcast.

        Raises FutureEvent for a type, schema version or shape that this program does not know.
        """
        where = f"{record.stream} version {record.version}"
        cls = self._classes.get(record.type)
        if cls is None:
            raise FutureEvent(
                f"{where}: this version of agentplane does not know events of type {record.type!r}; upgrade agentplane"
            )
        if record.schema_version > cls.schema_version:
            raise FutureEvent(
                f"{where}: {record.type} has schema version {record.schema_version}, this version of agentplane "
                f"knows up to {cls.schema_version}; upgrade agentplane"
            )
        data = record.data
        if record.schema_version < cls.schema_version:
            data = cls.upcast(dict(data), record.schema_version)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise FutureEvent(
                f"{where}: the data of {record.type} does not have the shape that this version of agentplane knows: "
                f"{error}"
            ) from error
