"""`eventually`: the only way in which tests wait for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from engine.errors import ClusterError

T = TypeVar("T")

OUTAGES = (ClusterError, httpx.TransportError)
"""What clients raise while a server restarts."""


def eventually(
    probe: Callable[[], T | None],
    what: str | Callable[[], str] = "it happened",
    seconds: float = 90,
    pause: float = 0.05,
) -> T:
    """Call `probe` every `pause` seconds until it returns a true value, and return that value.

    Raises AssertionError with `what` after `seconds`. An outage of a server counts as a false value.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object = None
        try:
            found = probe()
        except OUTAGES as outage:
            last = outage
        else:
            if found:
                return found
            last = found
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {seconds:g} s: {text} (last: {last!r})")
        time.sleep(pause)
