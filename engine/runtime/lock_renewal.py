"""Locks that last as long as the process that holds them, and hardly longer.

A lock must outlast the slowest answer of a peer, yet run out soon after a worker was killed: nobody can work on the
stream before. So its term is short, and one thread per process renews the locks that are held, every third of the
term. A process that dies stops renewing; so does one that is suspended, and it finds its lock lost when it wakes up.
The renewal proves nothing to the holder: before a write to the outside, and in every append, the lock is checked anew.

A hold is not renewed for ever: after LONGEST_HOLD its worker is taken for stuck, and the stream goes to another one.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from engine.errors import LockLost, LogUnavailable
from engine.log.contract import EventLog, Lock

log = structlog.get_logger(__name__)

LONGEST_HOLD = 900.0
"""Seconds after which a lock is not renewed any more."""


@dataclass(slots=True)
class _Hold:
    lock: Lock
    every: float
    next: float
    """When to renew, by the monotonic clock, in seconds."""
    until: float
    """When to stop."""


class LockRenewal:
    """The thread that renews locks; started by the first hold, again in a forked child."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._holds: dict[str, _Hold] = {}
        """By token."""
        self._wakes = math.inf
        """When the thread looks again by itself; most holds end before, and need not wake it."""
        self._thread: threading.Thread | None = None

    def add(self, lock: Lock, term: float, longest: float = LONGEST_HOLD) -> None:
        """Renew `lock`, of `term` seconds, from now on."""
        now = time.monotonic()
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lock keeper", daemon=True)
                self._thread.start()
            self._holds[lock.token] = _Hold(lock, term / 3, now + term / 3, now + longest)
            if now + term / 3 < self._wakes:
                self._changed.notify()

    def remove(self, lock: Lock) -> None:
        """Renew `lock` no more."""
        with self._changed:
            self._holds.pop(lock.token, None)

    def _run(self) -> None:
        while True:
            for hold in self._wait():
                self._renew(hold)

    def _wait(self) -> list[_Hold]:
        """Wait until locks are to be renewed, and return them."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [hold for hold in self._holds.values() if hold.next <= now]
                if due:
                    return due
                self._wakes = min((hold.next for hold in self._holds.values()), default=math.inf)
                self._changed.wait(None if self._wakes == math.inf else self._wakes - now)

    def _renew(self, hold: _Hold) -> None:
        now = time.monotonic()
        if now >= hold.until:
            log.error("lock held for too long, not renewed", stream=hold.lock.stream, seconds=LONGEST_HOLD)
            self.remove(hold.lock)
            return
        try:
            hold.lock.keep()
        except LockLost:
            self.remove(hold.lock)  # or let go of just now; its holder finds out
        except LogUnavailable as error:
            log.warning("lock not renewed", stream=hold.lock.stream, reason=str(error))
        hold.next = time.monotonic() + hold.every


RENEWAL = LockRenewal()
"""The one of this process."""


@contextmanager
def hold_lock(events: EventLog, stream: str, term: float, keeper: LockRenewal = RENEWAL) -> Iterator[Lock]:
    """Hold the lock of `stream` while the block lasts and the process lives. `term` is seconds.

    Raises LockHeld at once when another holds it.
    """
    with events.lock(stream, term) as lock:
        keeper.add(lock, term)
        try:
            yield lock
        finally:
            keeper.remove(lock)
