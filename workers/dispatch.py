"""Requests that a worker advance a stream, by a Celery message. ROUTES says which task and queue a stream goes to.

The message is a hint: the stream is dirty in the event log whether the message arrives or not. So an error of the
broker is logged and otherwise ignored, and code that appends events need not handle it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """The task that advances a stream, and its queue."""

    task: str
    queue: str


ROUTES: Mapping[str, Route] = {
    "deployment/": Route(LISTENER_ADVANCE, RECONCILE),
    "lgp/": Route(OPERATOR_ADVANCE, OPERATOR),
}
"""By the beginning of the stream's name."""


def route_of(stream: str, settings: Settings) -> Route:
    """Return the route of `stream`; the data plane's own stream goes to the listener, or to an operator alone."""
    for prefix, route in ROUTES.items():
        if stream.startswith(prefix):
            return route
    return ROUTES["deployment/" if settings.listener_enabled else "lgp/"]


class CeleryDispatcher:
    """A Dispatcher that sends Celery messages."""

    def __init__(self, settings: Settings, app: Celery | None = None) -> None:
        self._settings = settings
        self._app = app or build(settings)
        self._redis = connect(settings.redis, attempts=1)

    def dispatch(self, stream: str) -> None:
        """Send the message. An error of the broker is logged, and the stream left to the next sweep."""
        route = route_of(stream, self._settings)
        queue = queue_name(self._settings, route.queue)
        try:
            self._app.send_task(route.task, args=[stream], queue=queue, ignore_result=True)
        except Exception as error:
            log.warning("message not sent; left to the sweep", stream=stream, error=f"{type(error).__name__}: {error}")

    def backlog(self) -> dict[str, int]:
        """Return the number of waiting messages of each queue, by the queue's name without prefix.

        Raises redis.RedisError.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in QUEUES:
                pipeline.llen(list_key(self._settings, queue))
            return dict(zip(QUEUES, map(int, pipeline.execute()), strict=True))

    def waiting(self) -> dict[str, int]:
        """Return the backlog; empty while Redis is away."""
        try:
            return self.backlog()
        except redis.RedisError:
            return {}
