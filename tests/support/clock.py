"""Clocks that a test moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta


@dataclass
class FakeClock:
    """A clock that stands still until `move`."""

    at: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    tick: timedelta = timedelta()
    """How far each `now` moves the clock, so that no two events have the same time."""

    def now(self) -> datetime:
        self.at += self.tick
        return self.at

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class LeapingClock:
    """The machine's clock, which a test can move forward."""

    ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def leap(self, to: datetime) -> None:
        self.ahead = max(self.ahead, to - datetime.now(UTC))
