"""The event log in Redis with a metric: how many events of each type were appended."""

from __future__ import annotations

from collections.abc import Sequence

from engine import telemetry
from engine.event import Event
from engine.log.contract import Lock
from engine.log.redis import RedisLog


class CountedLog(RedisLog):
    """A RedisLog that counts the appended events by type."""

    def append(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[Event],
        *,
        actor: str,
        cause: str | None = None,
        lock: Lock | None = None,
    ) -> int:
        version = super().append(stream, expected_version, events, actor=actor, cause=cause, lock=lock)
        for event in events:
            telemetry.EVENTS.labels(event.type).inc()
        return version
