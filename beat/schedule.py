"""What beat asks for, and how often.

There is nothing worth keeping between two runs of beat, so the schedule is in memory and leaves no file. Both entries
are due as soon as beat starts. After a pause (a suspended machine, a Redis that was away) each is asked for once, not
once for every tick that was missed.

Messages expire after one interval, and none is added while several wait: workers that were away for a night find a
handful of requests, not thousands, and whoever scales by the length of the queue is not misled.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
import structlog
from celery.beat import ScheduleEntry  # type: ignore[import-untyped]
from celery.beat import Scheduler as MemoryScheduler

from engine.log.redis import connect
from engine.settings import Settings
from workers.app import CONTROL_PLANE, list_key, queue_name
from workers.heartbeat import heartbeat_file
from workers.tasks import POLL, SWEEP

log = structlog.get_logger(__name__)

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
MOST_WAITING = 4
"""Polls and sweeps in their queue above which no more are added."""
LONGEST_SLEEP = 1.0
"""Seconds that beat sleeps at most."""


def schedule(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """Return Celery's `beat_schedule`."""
    intervals = {SWEEP: settings.sweep_seconds}
    if settings.listener_enabled:
        intervals[POLL] = settings.poll_seconds
    return {
        task: {
            "task": task,
            "schedule": timedelta(seconds=seconds),
            "last_run_at": LONG_AGO,
            "options": {"queue": queue_name(settings, CONTROL_PLANE), "expires": max(seconds, 1.0)},
        }
        for task, seconds in intervals.items()
    }


class Scheduler(MemoryScheduler):  # type: ignore[misc]
    """Celery's scheduler without a file, and with an eye on the queue."""

    settings: Settings

    def __init__(self, *arguments: Any, **named: Any) -> None:
        named.pop("schedule_filename", None)
        super().__init__(*arguments, **named)
        self._redis = connect(self.settings.redis, timeout=2, attempts=0)
        self._list = list_key(self.settings, CONTROL_PLANE)
        self._heartbeat = heartbeat_file(self.settings, "beat")

    def tick(self, *arguments: Any, **named: Any) -> Any:
        """Do what is due, and leave a sign of life: a beat that hangs leaves none."""
        wait = super().tick(*arguments, **named)
        self._heartbeat.touch()
        return wait

    def setup_schedule(self) -> None:
        self.merge_inplace(schedule(self.settings))

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Send what is due, unless enough of it waits already."""
        try:
            waiting = self._redis.llen(self._list)
        except redis.RedisError as error:
            log.warning("waiting for Redis", task=entry.task, error=str(error))
            return
        if int(waiting) > MOST_WAITING:
            log.debug("nobody takes messages", task=entry.task, waiting=waiting)
            return
        super().apply_entry(entry, producer)


def scheduler(settings: Settings) -> type[Scheduler]:
    """Return the scheduler of this installation: Celery makes it by class, and its configuration is shown to people."""
    return type("InstallationScheduler", (Scheduler,), {"settings": settings})
