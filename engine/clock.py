"""The system's clock, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """`ports.Clock` of the machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)
