"""Backoff: how long a failed act waits, with the caps, and the events of its failures.

Retry policy is data: `ActDeferred` has the time of the next attempt, and the machine decides to wait until then. No
worker sleeps. The delay is capped exponential backoff with full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

`Backoff` has the base and the cap of the delay of deferred acts, REFUSED_CAP that of refused acts. Deferred acts use
the defaults of `Backoff`; the poll and the watches set their own. `deferral` keeps which acts wait, and counts their
failures.

A person may fix the cause of a refusal (a missing permission, a missing namespace) without any new input. So a refused
act is tried again too, but rarely: after a delay that doubles up to an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.event import Event


class ActDeferred(Event):
    """An act failed for a passing reason and will be tried again."""

    act: str
    attempt: int
    """Number of the failure in a row, from 1."""
    reason: str
    retry_at: datetime


class ActRefused(Event):
    """A peer refused an act; the act is tried again with new input, or after `refused_delay`."""

    act: str
    reason: str


REFUSED_BASE = 30.0
"""Seconds before the second attempt of a refused act."""
REFUSED_CAP = 3600.0
"""Seconds: upper bound of the delay, which doubles."""


def refused_delay(attempts: int) -> timedelta:
    """Return the delay after refusal number `attempts` in a row (from 1)."""
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
        """Return the delay in seconds after failure number `attempt` (from 1), for a random `chance` in [0, 1).

        `at_least` is a lower bound in seconds, from the peer's Retry-After.
        """
        bound = min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return max(self.floor, bound * chance, at_least or 0.0)
