"""The event log under test, and a Redis that loses its last writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from engine.log.contract import EventLog
from sandbox.redis import RedisServer
from tests.support.clock import FakeClock


@dataclass(frozen=True)
class LogWorld:
    """A log, and functions that let time pass for the log."""

    events: EventLog
    clock: FakeClock
    pass_time: Callable[[float], None]
    """Move the clock of the log, and of its locks, by so many seconds."""
    run_out: Callable[[str], None]
    """Let the lock of a stream expire now."""


class LastSecond:
    """Resets a Redis to an earlier moment, as a crash with `appendfsync everysec` does."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def _files(self) -> list[Path]:
        return [path for path in self._server.directory.rglob("*.aof*") if "manifest" not in path.name]

    def remember(self) -> None:
        """Write everything to disk, and remember this moment."""
        with redis.Redis.from_url(self._server.url) as client:
            client.config_set("appendfsync", "always")
            client.set("here", "now")
        self._sizes = {path: path.stat().st_size for path in self._files()}

    def lose_what_came_since(self) -> None:
        self._server.kill()
        for path, size in self._sizes.items():
            with path.open("r+b") as file:
                file.truncate(size)
        self._server.start()
