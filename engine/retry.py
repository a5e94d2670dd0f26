"""What a failed act leaves in the log, and when it is tried again.

Retry policy is data: `ActDeferred` names the time, the machine waits for it, nobody sleeps. The delay is capped
exponential backoff with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from engine.event import Event


class ActDeferred(Event):
    """An act met a passing failure and will be tried again."""

    act: str
    attempt: int
    """1 for the first failure in a row."""
    reason: str
    retry_at: datetime


class ActRefused(Event):
    """An act met a permanent failure; nothing is tried before new input comes."""

    act: str
    reason: str


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
