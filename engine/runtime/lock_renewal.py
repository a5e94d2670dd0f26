"""Lock renewal: locks with a short TTL, renewed while the process lives.

A lock must outlast the slowest answer of a peer, yet expire soon after its worker was killed, because no other worker
can advance the stream before. So the TTL is short, and one thread per process renews every held lock each third of the
TTL. A process that dies or is suspended stops renewing; a suspended process finds its lock lost when it resumes. The
renewal proves nothing to the holder: the lock is checked again before each write to a peer, and in each append.

A lock is renewed for at most LONGEST_HOLD. After that its worker counts as stuck, and another worker can take the lock.
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
"""Seconds for which a lock is renewed."""


@dataclass(slots=True)
class _Hold:
    lock: Lock
    every: float
    """Seconds between two renewals."""
    next: float
    """When to renew next (monotonic seconds)."""
    until: float
    """When to stop renewing (monotonic seconds)."""


class LockRenewal:
    """The thread that renews the locks of this process. The first `add` in a process, also a forked one, starts it."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._holds: dict[str, _Hold] = {}
        """Token of the lock → its hold."""
        self._wakes = math.inf
        """When the thread wakes up by itself (monotonic seconds). Most holds end before that, and need not wake it."""
        self._thread: threading.Thread | None = None

    def add(self, lock: Lock, ttl: float, longest: float = LONGEST_HOLD) -> None:
        """Renew `lock`, which has a TTL of `ttl` seconds, for at most `longest` seconds."""
        now = time.monotonic()
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lock renewal", daemon=True)
                self._thread.start()
            self._holds[lock.token] = _Hold(lock, ttl / 3, now + ttl / 3, now + longest)
            if now + ttl / 3 < self._wakes:
                self._changed.notify()

    def remove(self, lock: Lock) -> None:
        """Stop renewing `lock`."""
        with self._changed:
            self._holds.pop(lock.token, None)

    def _run(self) -> None:
        while True:
            for hold in self._wait():
                self._renew(hold)

    def _wait(self) -> list[_Hold]:
        """Wait until it is time to renew locks; return their holds."""
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
            log.error("lock held for too long; not renewed", stream=hold.lock.stream, seconds=LONGEST_HOLD)
            self.remove(hold.lock)
            return
        try:
            hold.lock.keep()
        except LockLost:
            self.remove(hold.lock)  # released a moment ago, or lost: the holder notices at its next check
        except LogUnavailable as error:
            log.warning("lock not renewed", stream=hold.lock.stream, reason=str(error))
        hold.next = time.monotonic() + hold.every


RENEWAL = LockRenewal()
"""The lock renewal of this process."""


@contextmanager
def hold_lock(events: EventLog, stream: str, ttl: float, renewal: LockRenewal = RENEWAL) -> Iterator[Lock]:
    """Hold the lock of `stream` in a block, and renew it while the process lives. `ttl` is seconds.

    Raises LockHeld at once when another holder has the lock.
    """
    with events.lock(stream, ttl) as lock:
        renewal.add(lock, ttl)
        try:
            yield lock
        finally:
            renewal.remove(lock)
