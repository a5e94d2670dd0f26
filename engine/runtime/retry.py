"""What a failed act leaves in the log, and when it is tried again.

Retry policy is data: `ActDeferred` names the time, the machine waits for it, nobody sleeps. The delay is capped
exponential backoff with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

A refusal (no permission, a missing namespace) may be mended by a person without any new input, so it is tried again
too, but rarely: after a time that doubles up to an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.event import Event


class ActDeferred(Event):
    """An act met a passing failure and will be tried again."""

    act: str
    attempt: int
    """1 for the first failure in a row."""
    reason: str
    retry_at: datetime


class ActRefused(Event):
    """An act met a permanent failure; tried again with new input, or after `refused_delay`."""

    act: str
    reason: str


REFUSED_BASE = 30.0
"""Seconds before a refused act is tried again."""
REFUSED_CAP = 3600.0
"""Seconds: upper bound, reached by doubling."""


def refused_delay(attempts: int) -> timedelta:
    """Return how long to wait after refusal number `attempts` in a row (from 1)."""
    return timedelta(seconds=min(REFUSED_CAP, REFUSED_BASE * 2.0 ** min(attempts - 1, 20)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Capped exponential backoff with full jitter."""

    base: float = 0.5
    """Seconds: upper bound of the first delay."""
    cap: float = 60.0
    """Seconds: upper bound of any delay."""
    floor: float = 0.1
    """Seconds: lower bound, so that a retry is never immediate."""

    def delay(self, attempt: int, chance: float, at_least: float | None = None) -> float:
        """Return the seconds to wait after failure number `attempt` (from 1), for a `chance` in [0, 1).

        `at_least` is what the peer asked for (Retry-After), in seconds.
        """
        bound = min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return max(self.floor, bound * chance, at_least or 0.0)
