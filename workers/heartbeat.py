"""Whether a worker's loop turns: a file that the loop itself writes, for a liveness check to read.

    python -m workers listener --check     exit code 1 when the last sign of life is older than STALE_SECONDS
    python -m workers.alive listener …     the same, for probes: it starts in no time

The loop that writes it is the one that takes messages and acknowledges them, so a worker that is stuck there looks
dead, and one whose tasks merely take long does not. While Redis is away the loop waits for it without turning, which
is not a reason to be restarted: hence the patience.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import bootsteps  # type: ignore[import-untyped]

from engine.settings import Settings
from workers import alive

BEAT_SECONDS = 5.0
"""Between two signs of life."""
STALE_SECONDS = alive.STALE_SECONDS["listener"]
"""After which the last sign of life is too old."""


def heartbeat_file(settings: Settings, process: str) -> Path:
    """Return the file that `process` of this installation writes."""
    return alive.heartbeat_file(settings.prefix, process)


def problem(file: Path, now: float) -> str | None:
    """Return why the process is not alive, if it is not. `now` is seconds since 1970."""
    return alive.problem(file, now, STALE_SECONDS)


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """The part of a Celery worker that touches the file, from the worker's own timer."""

    requires = ("celery.worker.components:Timer",)
    file: Path

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._timer: Any = None

    def start(self, worker: Any) -> None:
        self.file.touch()
        self._timer = worker.timer.call_repeatedly(BEAT_SECONDS, self.file.touch, priority=10)

    def stop(self, worker: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.file.unlink(missing_ok=True)


def writing(file: Path) -> type[Heartbeat]:
    """Return the step that writes `file`."""
    return type("FileHeartbeat", (Heartbeat,), {"file": file})


def check(settings: Settings, process: str) -> str | None:
    """Return why `process` on this machine is not alive, if it is not."""
    return problem(heartbeat_file(settings, process), time.time())
