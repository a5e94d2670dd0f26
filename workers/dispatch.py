"""Asking for a stream to be advanced, by a Celery message.

The message is a hint: the stream is dirty in the event log whether it arrives or not. So a broker that is away is
logged and otherwise ignored, and nobody who appends events has to care.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from celery import Celery  # type: ignore[import-untyped]

from engine.log.redis import connect
from engine.settings import Settings
from workers.app import OPERATOR, QUEUES, RECONCILE, build, list_key, queue_name

log = structlog.get_logger(__name__)

LISTENER_ADVANCE, OPERATOR_ADVANCE = "listener.advance", "operator.advance"


@dataclass(frozen=True, slots=True)
class Route:
    """Which task, on which queue."""

    task: str
    queue: str


ROUTES: Mapping[str, Route] = {
    "deployment/": Route(LISTENER_ADVANCE, RECONCILE),
    "lgp/": Route(OPERATOR_ADVANCE, OPERATOR),
}
"""Stream prefix → who advances it."""


def route_of(stream: str, settings: Settings) -> Route:
    """Return who advances `stream`; streams of the data plane itself go to whichever component runs."""
    for prefix, route in ROUTES.items():
        if stream.startswith(prefix):
            return route
    return ROUTES["deployment/" if settings.listener_enabled else "lgp/"]


class CeleryDispatcher:
    """A Dispatcher by Celery messages."""

    def __init__(self, settings: Settings, app: Celery | None = None) -> None:
        self._settings = settings
        self._app = app or build(settings)
        self._redis = connect(settings.redis, attempts=1)

    def dispatch(self, stream: str) -> None:
        """Send the message; a broker that is away is logged, and left to the sweep."""
        route = route_of(stream, self._settings)
        options: dict[str, Any] = {"queue": queue_name(self._settings, route.queue), "ignore_result": True}
        try:
            self._app.send_task(route.task, args=[stream], **options)
        except Exception as error:
            log.warning("not dispatched, left to the sweep", stream=stream, error=f"{type(error).__name__}: {error}")

    def backlog(self) -> dict[str, int]:
        """Return the number of messages that wait in each queue, by its name without prefix.

        Raises redis.RedisError.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in QUEUES:
                pipeline.llen(list_key(self._settings, queue))
            return dict(zip(QUEUES, map(int, pipeline.execute()), strict=True))

    def waiting(self) -> dict[str, int]:
        """The same, empty while Redis is away."""
        try:
            return self.backlog()
        except redis.RedisError:
            return {}
