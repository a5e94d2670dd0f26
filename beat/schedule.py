"""The schedule of beat: the poll interval (AGENTPLANE_POLL_SECONDS) and the sweep interval (AGENTPLANE_SWEEP_SECONDS).

Nothing needs to be kept between two runs of beat, so the schedule is in memory and there is no file. Both entries are
due as soon as beat starts. After a pause (a suspended machine, an outage of Redis) beat sends each message once, not
once for every missed tick.

Messages expire after one interval, and beat adds none while several wait. So workers that were away for a night find a
few messages, not thousands, and an autoscaler that reads the length of the queue is not misled.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import redis
import structlog
from celery.beat import ScheduleEntry  # type: ignore[import-untyped]
from celery.beat import Scheduler as MemoryScheduler
from kombu.messaging import Producer

from engine.log.redis import connect
from engine.settings import Settings
from workers.app import CONTROL_PLANE, list_key, queue_name
from workers.heartbeat import heartbeat_file
from workers.tasks import POLL, SWEEP

log = structlog.get_logger(__name__)

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
MOST_WAITING = 4
"""Messages in the queue of polls and sweeps above which beat adds none."""
LONGEST_SLEEP = 1.0
"""Seconds that beat sleeps at most between two ticks."""


class Entry(TypedDict):
    """One entry of Celery's `beat_schedule`."""

    task: str
    schedule: timedelta
    last_run_at: datetime
    options: Mapping[str, object]


def schedule(settings: Settings) -> Mapping[str, Entry]:
    """Return Celery's `beat_schedule`: a sweep, and a poll if the listener is enabled, at their intervals."""
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
    """Celery's scheduler without a file, which sends nothing to a queue that is not being served."""

    settings: Settings

    def __init__(self, *arguments: object, **named: object) -> None:
        named.pop("schedule_filename", None)
        super().__init__(*arguments, **named)
        self._redis = connect(self.settings.redis, timeout=2, attempts=0)
        self._list = list_key(self.settings, CONTROL_PLANE)
        self._heartbeat = heartbeat_file(self.settings, "beat")

    def tick(self, *arguments: object, **named: object) -> float:
        """Send what is due, and touch the heartbeat file: a beat that hangs touches it no more."""
        wait: float = super().tick(*arguments, **named)
        self._heartbeat.touch()
        return wait

    def setup_schedule(self) -> None:
        self.merge_inplace(schedule(self.settings))

    def apply_entry(self, entry: ScheduleEntry, producer: Producer | None = None) -> None:
        """Send the message of an entry that is due, unless too many wait already."""
        try:
            waiting = self._redis.llen(self._list)
        except redis.RedisError as error:
            log.warning("waiting for Redis", task=entry.task, error=str(error))
            return
        if int(waiting) > MOST_WAITING:
            log.debug("no worker takes messages; nothing sent", task=entry.task, waiting=waiting)
            return
        super().apply_entry(entry, producer)


def scheduler(settings: Settings) -> type[Scheduler]:
    """Return the scheduler class of this installation. Celery wants a class, so the settings are an attribute of it."""
    return type("InstallationScheduler", (Scheduler,), {"settings": settings})
