"""The dispatcher of a process without queues, such as a command: the next sweep finds the dirty streams."""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)


class SweepOnly:
    """`ports.Dispatcher` that sends nothing: streams stay dirty until the next sweep."""

    def dispatch(self, stream: str) -> None:
        log.debug("left to the sweep", stream=stream)
