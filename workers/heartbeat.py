"""The heartbeat of a worker: a file that the worker's loop touches, for liveness checks.

    python -m workers listener --check        exits with 1 if the heartbeat is older than STALE_SECONDS
    python -m workers.liveness listener …     the same for probes, with a quick start

The loop that touches the file is the loop that takes and acknowledges messages. So a worker whose loop is stuck looks
dead, and a worker whose tasks take long does not. While Redis is away, the loop waits without turning; a restart would
not help then, which is why STALE_SECONDS is long.
"""

from __future__ import annotations

import time
from pathlib import Path

from celery import bootsteps  # type: ignore[import-untyped]
from celery.worker import WorkController  # type: ignore[import-untyped]
from kombu.asynchronous.timer import Entry

from engine.settings import Settings
from workers import liveness

BEAT_SECONDS = 5.0
"""Seconds between two heartbeats."""
STALE_SECONDS = liveness.STALE_SECONDS["listener"]
"""Age, in seconds, from which on a heartbeat is too old."""


def heartbeat_file(settings: Settings, process: str) -> Path:
    """Return the file that `process` of this installation touches."""
    return liveness.heartbeat_file(settings.prefix, process)


def problem(file: Path, now: float) -> str | None:
    """Return why the process is not alive, None if it is. `now` is seconds since 1970."""
    return liveness.problem(file, now, STALE_SECONDS)


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """The step of a Celery worker that touches the file, called by the worker's own timer."""

    requires = ("celery.worker.components:Timer",)
    file: Path

    def __init__(self, worker: WorkController, **options: object) -> None:
        super().__init__(worker, **options)
        self._timer: Entry | None = None

    def start(self, worker: WorkController) -> None:
        self.file.touch()
        self._timer = worker.timer.call_repeatedly(BEAT_SECONDS, self.file.touch, priority=10)

    def stop(self, worker: WorkController) -> None:
        if self._timer is not None:
            self._timer.cancel()  # type: ignore[no-untyped-call]
            self._timer = None
        self.file.unlink(missing_ok=True)


def touching(file: Path) -> type[Heartbeat]:
    """Return the step that touches `file`: Celery takes steps as classes."""
    return type("FileHeartbeat", (Heartbeat,), {"file": file})


def check(settings: Settings, process: str) -> str | None:
    """Return why `process` on this machine is not alive, None if it is."""
    return problem(heartbeat_file(settings, process), time.time())
