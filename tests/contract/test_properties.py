"""Any sequence of operations, compared with a simple model, for both logs."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from engine.errors import ConcurrencyConflict, LockHeld, LockLost, TrimRefused
from engine.log.contract import EventLog, Lock, Snapshot
from engine.log.export import export_log, import_log
from engine.log.memory import MemoryLog
from engine.log.redis import RedisLog
from tests.support.clock import FakeClock
from tests.support.notes import NOON, notes

NAMES = ("work/a", "work/b", "other/c")
streams = st.sampled_from(NAMES)
seconds = st.integers(min_value=0, max_value=30)
OLD_ENOUGH = 10


@dataclass
class Model:
    """The state that the log must have, in plain Python."""

    texts: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in NAMES})
    trimmed: dict[str, int] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)
    dirty: dict[str, datetime] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    """Stream → its work token in the model."""
    issued: int = 0
    timers: dict[str, datetime] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    holders: dict[str, int] = field(default_factory=dict)
    """Stream → fence of its lock."""

    def renew(self, stream: str) -> None:
        self.issued += 1
        self.tokens[stream] = self.issued

    def ask(self, stream: str, now: datetime, renew: bool) -> None:
        if renew or stream not in self.dirty:
            self.renew(stream)
        self.dirty.setdefault(stream, now)


class LogMachine(RuleBasedStateMachine):
    """Runs every operation on a log and on the model, and compares."""

    locks = Bundle("locks")
    seen_tokens = Bundle("seen_tokens")

    def make(self, clock: FakeClock) -> EventLog:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock(NOON)
        self.events = self.make(self.clock)
        self.model = Model()
        self.held: dict[int, ExitStack] = {}
        self.count = 0

    # --- events

    @rule(stream=streams, number=st.integers(0, 4), off_by=st.sampled_from([0, 0, 0, -1, 1]))
    def append(self, stream: str, number: int, off_by: int) -> None:
        self._append(stream, number, off_by, None)

    @rule(lock=locks, number=st.integers(1, 3))
    def append_under_a_lock(self, lock: Lock, number: int) -> None:
        if self.model.holders.get(lock.stream) == lock.fence:
            self._append(lock.stream, number, 0, lock)
            return
        with pytest.raises(LockLost):
            self._append(lock.stream, number, 0, lock)

    def _append(self, stream: str, number: int, off_by: int, lock: Lock | None) -> None:
        there = self.model.texts[stream]
        texts = [f"{self.count}.{n}" for n in range(number)]
        self.count += 1
        expected = len(there) + off_by
        if off_by and number:
            with pytest.raises(ConcurrencyConflict) as conflict:
                self.events.append(stream, expected, notes(*texts), actor="test", lock=lock)
            assert conflict.value.actual == len(there)
            return
        assert self.events.append(stream, expected, notes(*texts), actor="test", lock=lock) == expected + number
        if number:
            self.model.order += [(stream, len(there) + n) for n in range(1, number + 1)]
            there += texts
            self.model.ask(stream, self.clock.now(), renew=False)

    # --- locks

    @rule(target=locks, stream=streams)
    def lock(self, stream: str) -> Any:
        stack = ExitStack()
        if stream in self.model.holders:
            with pytest.raises(LockHeld):
                stack.enter_context(self.events.lock(stream, 3600))
            return multiple()
        lock = stack.enter_context(self.events.lock(stream, 3600))
        assert lock.fence > max(self.held, default=0)
        self.held[lock.fence] = stack
        self.model.holders[stream] = lock.fence
        return lock

    @rule(lock=locks)
    def keep(self, lock: Lock) -> None:
        if self.model.holders.get(lock.stream) == lock.fence:
            lock.keep()
        else:
            with pytest.raises(LockLost):
                lock.keep()

    @rule(lock=locks)
    def let_go(self, lock: Lock) -> None:
        self.held[lock.fence].close()
        if self.model.holders.get(lock.stream) == lock.fence:
            del self.model.holders[lock.stream]

    # --- outbox and timers

    @rule(seconds=seconds)
    def time_passes(self, seconds: int) -> None:
        self.clock.move(seconds)

    @rule(stream=streams)
    def mark_dirty(self, stream: str) -> None:
        self.events.mark_dirty(stream)
        self.model.ask(stream, self.clock.now(), renew=True)

    @rule(target=seen_tokens, stream=streams)
    def read_the_work_token(self, stream: str) -> tuple[str, int, int]:
        """Return the stream, its work token in the log and its work token in the model."""
        token = self.events.work_token(stream)
        assert (token > 0) == (stream in self.model.dirty)
        return stream, token, self.model.tokens.get(stream, 0)

    @rule(seen=seen_tokens, off_by=st.sampled_from([0, 0, 0, -1, 1]), wait=st.none() | seconds)
    def acknowledge(self, seen: tuple[str, int, int], off_by: int, wait: int | None) -> None:
        stream, token, model_token = seen
        until = None if wait is None else self.clock.now() + timedelta(seconds=wait)
        version = len(self.model.texts[stream]) + off_by
        clean = self.events.acknowledge(stream, version, work_token=token, until=until)
        assert clean == (off_by == 0 and self.model.tokens.get(stream, 0) == model_token)
        if clean:
            self.model.dirty.pop(stream, None)
            self.model.tokens.pop(stream, None)
            self.model.timers.pop(stream, None)
            if until is not None:
                self.model.timers[stream] = until

    @rule(limit=st.integers(1, 3))
    def take_dirty(self, limit: int) -> None:
        oldest = self.clock.now() - timedelta(seconds=OLD_ENOUGH)
        old = [stream for stream in self._dirty_in_order() if self.model.dirty[stream] <= oldest][:limit]
        assert self.events.take_dirty(OLD_ENOUGH, limit) == old
        self.model.dirty |= dict.fromkeys(old, self.clock.now())

    @rule(stream=streams, wait=seconds)
    def schedule(self, stream: str, wait: int) -> None:
        self.model.timers[stream] = self.clock.now() + timedelta(seconds=wait)
        self.events.schedule(stream, self.model.timers[stream])

    @rule(stream=streams)
    def unschedule(self, stream: str) -> None:
        self.model.timers.pop(stream, None)
        self.events.unschedule(stream)

    @rule()
    def take_due(self) -> None:
        now = self.clock.now()
        due = [stream for stream, at in self._timers_in_order() if at <= now]
        assert self.events.take_due(now) == due
        for stream in due:
            del self.model.timers[stream]
            self.model.ask(stream, now, renew=True)

    # --- snapshots

    @rule(stream=streams, back=st.integers(-1, 3))
    def save_snapshot(self, stream: str, back: int) -> None:
        version = len(self.model.texts[stream]) - back
        self.events.save_snapshot(Snapshot(stream=stream, version=version, fingerprint="code", state=b"{}"))
        kept = self.model.snapshots.get(stream, -1)
        if self.model.trimmed.get(stream, 0) <= version <= len(self.model.texts[stream]) and version >= kept >= -1:
            self.model.snapshots[stream] = version

    @rule()
    def drop_snapshots(self) -> None:
        dropped = [stream for stream in self.model.snapshots if stream not in self.model.trimmed]
        assert self.events.drop_snapshots() == len(dropped)
        for stream in dropped:
            del self.model.snapshots[stream]

    @rule(stream=streams, through=st.integers(1, 6))
    def trim(self, stream: str, through: int) -> None:
        version = len(self.model.texts[stream])
        if through > self.model.snapshots.get(stream, 0) or through >= version:
            with pytest.raises(TrimRefused):
                self.events.trim(stream, through)
            return
        already = self.model.trimmed.get(stream, 0)
        assert self.events.trim(stream, through) == max(0, through - already)
        self.model.trimmed[stream] = max(already, through)

    # --- what must hold at any time

    def _dirty_in_order(self) -> list[str]:
        return sorted(self.model.dirty, key=lambda stream: (self.model.dirty[stream], stream))

    def _timers_in_order(self) -> list[tuple[str, datetime]]:
        return sorted(self.model.timers.items(), key=lambda timer: (timer[1], timer[0]))

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        model = self.model
        assert self.events.versions() == {name: len(texts) for name, texts in model.texts.items() if texts}
        assert self.events.dirty() == self._dirty_in_order()
        assert self.events.due() == self._timers_in_order()
        records = self.events.read_all()
        kept = [(stream, version) for stream, version in model.order if version > model.trimmed.get(stream, 0)]
        assert [(record.stream, record.version) for record in records] == kept
        assert [record.data["text"] for record in records] == [model.texts[s][v - 1] for s, v in kept]
        assert len({record.position for record in records}) == len(records)
        assert self.events.head() == len(model.order)
        assert self.events.trimmed() == model.trimmed

    def teardown(self) -> None:
        if not hasattr(self, "events"):
            return
        for name, texts in self.model.texts.items():
            kept = texts[self.model.trimmed.get(name, 0) :]
            assert [record.data["text"] for record in self.events.read(name)] == kept
        copy = MemoryLog()
        import_log(copy, export_log(self.events))
        assert list(export_log(copy)) == list(export_log(self.events))
        for lock in self.held.values():
            lock.close()  # a lock that the garbage collector lets go of would connect once more


class MemoryMachine(LogMachine):
    def make(self, clock: FakeClock) -> EventLog:
        return MemoryLog(clock)


class RedisMachine(LogMachine):
    url = ""

    def make(self, clock: FakeClock) -> EventLog:
        return RedisLog.from_url(self.url, f"test-{secrets.token_hex(5)}", clock=clock)

    def teardown(self) -> None:
        super().teardown()
        if isinstance(getattr(self, "events", None), RedisLog):
            self.events.close()  # type: ignore[attr-defined]


QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, stateful_step_count=40)

TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(QUICK, max_examples=60)


@pytest.fixture(scope="module")
def _redis(redis_url: str) -> None:
    RedisMachine.url = redis_url


TestRedis = pytest.mark.usefixtures("_redis")(RedisMachine.TestCase)
TestRedis.settings = settings(QUICK, max_examples=40)
