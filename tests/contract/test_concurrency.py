"""Many writers at once, for both logs."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from engine.errors import ConcurrencyConflict, LockHeld, LockLost
from engine.log.contract import EventLog
from tests.support.notes import NOON, notes

WRITERS, APPENDS = 6, 40
STREAMS = ("work/a", "work/b", "work/c")


def at_once(works: list[Callable[[], None]]) -> None:
    """Run each of `works` in a thread; raise the error of the first that fails."""
    failed: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failed:
        raise failed[0]


def test_concurrent_appends_lose_nothing_and_share_no_number(events: EventLog) -> None:
    def write(writer: int) -> None:
        chance = random.Random(writer)
        for number in range(APPENDS):
            stream = chance.choice(STREAMS)
            texts = [f"{writer}.{number}.{part}" for part in range(chance.randint(1, 3))]
            written.update(texts)
            version = events.version(stream)
            while True:
                try:
                    events.append(stream, version, notes(*texts), actor="test")
                    break
                except ConcurrencyConflict as conflict:
                    version = conflict.actual

    written: Counter[str] = Counter()
    at_once([lambda writer=writer: write(writer) for writer in range(WRITERS)])  # type: ignore[misc]

    everything = events.read_all(limit=10_000)
    assert Counter(record.data["text"] for record in everything) == written
    assert [record.position for record in everything] == list(range(1, len(everything) + 1))
    for stream in STREAMS:
        mine = [record for record in everything if record.stream == stream]
        assert [record.version for record in mine] == list(range(1, len(mine) + 1))
        assert mine == events.read(stream)
        # Events of one append stay together.
        for earlier, later in pairwise(mine):
            part = int(later.data["text"].rpartition(".")[2])
            assert part == 0 or earlier.data["text"].rpartition(".")[0] == later.data["text"].rpartition(".")[0]


def test_one_timer_is_taken_by_one_sweeper(events: EventLog) -> None:

    for number in range(100):
        events.schedule(f"work/{number}", NOON)
    taken: list[str] = []

    at_once([lambda: taken.extend(events.take_due(NOON, limit=30)) for _ in range(8)])

    assert sorted(taken) == sorted(f"work/{number}" for number in range(100))


def test_a_lock_has_one_holder(events: EventLog) -> None:
    inside, most, fences = Counter[str](), 0, []

    def enter() -> None:
        nonlocal most
        for _ in range(40):
            try:
                with events.lock("work/a", 30) as lock:
                    inside["now"] += 1
                    most = max(most, inside["now"])
                    fences.append(lock.fence)
                    inside["now"] -= 1
            except LockHeld:
                continue

    at_once([enter for _ in range(6)])

    assert most == 1
    assert len(set(fences)) == len(fences) > 0


def test_an_acknowledgement_never_hides_an_append(events: EventLog) -> None:
    """Workers acknowledge while writers append: at the end every stream is dirty, or a worker has read all of it."""
    seen = 0
    done = threading.Event()

    def append() -> None:
        for version in range(200):
            events.append("work/a", version, notes(str(version)), actor="test")
        done.set()

    def acknowledge() -> None:
        nonlocal seen
        while True:
            last = done.is_set()
            token, version = events.work_token("work/a"), events.version("work/a")
            try:
                with events.lock("work/a", 30) as lock:
                    if events.acknowledge("work/a", version, work_token=token, lock=lock):
                        seen = max(seen, version)
            except (LockHeld, LockLost):
                pass
            if last:
                return

    at_once([append, acknowledge, acknowledge])

    assert events.dirty() == ["work/a"] or seen == 200
