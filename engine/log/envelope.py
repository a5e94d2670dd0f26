"""What both implementations of the log share: ids of events, and times as whole microseconds."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def new_id() -> str:
    """Return a new event id, unique over all logs: 32 hex digits."""
    return uuid.uuid4().hex


def to_micros(at: datetime) -> int:
    """Return `at` as whole microseconds since 1970, exactly. Raises ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone; the log needs one, and keeps UTC")
    return (at - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the UTC time of `micros` microseconds since 1970, exactly."""
    return EPOCH + micros * MICROSECOND
