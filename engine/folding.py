"""Folding a stream into its state, from a snapshot where one fits."""

from __future__ import annotations

import hashlib
from typing import Any, Generic, TypeVar

import orjson

from engine.log.contract import EventLog, Snapshot
from engine.machine import Machine, State
from engine.retry import ActDeferred, ActRefused

S = TypeVar("S", bound=State)

SNAPSHOT_EVERY = 50
"""Events after which a new snapshot is worth its write."""


def canonical(value: Any) -> bytes:
    """Return `value` as canonical JSON: sorted keys, no spaces, UTF-8. The one codec for digests and snapshots."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """Return a short unkeyed digest of a JSON value that holds no secrets (SHA-256, 16 hex digits)."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


class Fold(Generic[S]):
    """The state of one stream, kept up with its log."""

    def __init__(self, machine: Machine[S], events: EventLog, stream: str) -> None:
        self.stream = stream
        self._machine = machine
        self._events = events
        self.state: S = machine.initial
        self.version = 0
        self._snapshot_version = 0
        self._failed: dict[str, int] = {}
        self._fingerprint = fingerprint(machine)
        self._restore()

    def _restore(self) -> None:
        snapshot = self._events.load_snapshot(self.stream)
        if snapshot is not None and snapshot.fingerprint == self._fingerprint:
            self.state = type(self._machine.initial).model_validate_json(snapshot.state)
            self.version = self._snapshot_version = snapshot.version

    def catch_up(self) -> None:
        """Fold what was appended since. Raises FutureEvent, LogUnavailable."""
        for record in self._events.read(self.stream, self.version):
            event = self._machine.events.decode(record)
            self.state = self._machine.evolve(self.state, event, record.at)
            self.version = record.version
            self._count(event)

    def _count(self, event: Any) -> None:
        match event:
            case ActDeferred(act=act, attempt=attempt):
                self._failed[act] = attempt
            case ActRefused():
                pass
            case _:
                self._failed.clear()

    def failures(self, act: str) -> int:
        """Return how often `act` was deferred in a row."""
        return self._failed.get(act, 0)

    def save(self) -> None:
        """Keep a snapshot where it saves enough reading."""
        if self.version - self._snapshot_version >= SNAPSHOT_EVERY:
            state = canonical(self.state.model_dump(mode="json"))
            self._events.save_snapshot(
                Snapshot(stream=self.stream, version=self.version, fingerprint=self._fingerprint, state=state)
            )
            self._snapshot_version = self.version


def fingerprint(machine: Machine[Any]) -> str:
    """Return what a snapshot depends on: the machine and the schema of its state."""
    return f"{machine.name}:{digest(type(machine.initial).model_json_schema())}"
