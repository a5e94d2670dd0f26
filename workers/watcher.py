"""The watcher process: watches the cluster and tails the log, and runs the observation loop.

Theory of operation. One thread per watch and one that tails the log put messages into a queue. The main thread takes
them out and runs the observation loop (`engine/runtime/observation_loop.py`), which turns what happens in the cluster
into events. The threads wait out a broken watch, an expired one, an API server or a Redis that restarts.

Which kinds are watched and which are ignored: `engine/operator/observation/watches.py` and
`engine/listener/observation/observer.py`.

After an interruption of the log, or when Redis has another history than before, every stream is compared anew.

The heartbeat file is written while the loop works and every watch thread lives; `python -m workers.watcher --check`
fails when the file is older than STALE seconds, which is what a probe wants to know.
"""

from __future__ import annotations

import argparse
import queue
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine import bootstrap, telemetry
from engine.errors import AgentplaneError, LogUnavailable, SettingsError
from engine.listener.machine import ListenerMachine
from engine.listener.observation.observer import ListenerObserver
from engine.log.contract import EventLog
from engine.operator.machine import OperatorMachine
from engine.operator.observation.observer import OperatorObserver
from engine.ports import Cluster, Dispatcher
from engine.runtime.backoff import Backoff
from engine.runtime.observation import Observer, Watch
from engine.runtime.observation_loop import HOLD, Appended, Changed, Message, ObservationLoop
from engine.settings import Settings
from workers import heartbeat
from workers.__main__ import recorded
from workers.dispatch import CeleryDispatcher

log = structlog.get_logger(__name__)

AGAIN = 1.0
"""Seconds before the log is tried again after an interruption."""
LEASE_AGAIN = 2.0
"""Seconds before another look whether another data plane still holds a namespace."""
HISTORY = 1.0
"""Seconds between two checks whether the log was taken back."""
HEARTBEAT = 5.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds after which the last sign of life is too old."""


class Flag:
    """An event that a signal handler may set: threading.Event takes a lock that the interrupted code may hold."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or soon after it is set."""
        deadline = time.monotonic() + seconds
        while not self._set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


class Watcher:
    """The threads that watch and tail, and the observation loop."""

    def __init__(
        self,
        observers: Sequence[Observer[Any]],
        namespaces: Sequence[str],
        events: EventLog,
        cluster: Cluster,
        dispatcher: Dispatcher,
        *,
        hold: float = HOLD,
        heartbeat_file: Path | None = None,
        other_holder: Callable[[str], str | None] = lambda _namespace: None,
    ) -> None:
        """`hold` is how many seconds an unconfirmed observation is held.

        `other_holder` returns the other data plane that holds a namespace, which is then not watched; None for none.
        """
        self.loop = ObservationLoop(observers, events, dispatcher, hold=hold)
        self._observers = observers
        self._namespaces = tuple(namespaces)
        self._events = events
        self._cluster = cluster
        self._heartbeat = heartbeat_file
        self._other_holder = other_holder
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stop = Flag()
        self._threads: dict[tuple[Watch, str], threading.Thread] = {}
        self._gap = threading.Event()
        """The tail was interrupted."""
        self._last_seen = 0.0
        self._history = ""
        self._history_at = 0.0

    def run(self) -> None:
        """Work until `stop`."""
        tail = self._thread("tail", self._tail)
        for observer in self._observers:
            for watch in observer.watches():
                for namespace in self._namespaces:
                    self._start_watch(watch, namespace)
            for watch, namespace in observer.external_watches():
                self._start_watch(watch, namespace)
        beaten = 0.0
        backlog: deque[Message] = deque()
        while not self._stop.is_set():
            try:
                self._step(backlog)
            except LogUnavailable as error:
                log.warning("log unavailable", error=str(error))
                self._gap.set()
                self._stop.wait(AGAIN)
            if time.monotonic() - beaten >= HEARTBEAT and tail.is_alive():
                beaten = time.monotonic()
                self._beat()

    def stop(self) -> None:
        """End `run` soon. Threads that wait for a silent watch end with the process."""
        self._stop.set()

    def _step(self, backlog: deque[Message]) -> None:
        """Take the received messages in, then compare what is due. A message leaves the backlog once it is taken in."""
        backlog.extend(self._received())
        now = time.monotonic()
        if self._gap.is_set() or self._taken_back(now):
            self._gap.clear()
            self.loop.compare_everything(now)
        while backlog:
            self.loop.take(backlog[0], now)
            backlog.popleft()
        self.loop.compare_due(time.monotonic())
        for watch, namespace in self.loop.extra_watches:
            if namespace in self._namespaces:
                self._start_watch(watch, namespace)

    def _taken_back(self, now: float) -> bool:
        """Whether the log has another history than at the last check."""
        if now - self._history_at < HISTORY:
            return False
        before, self._history = self._history, self._events.history()
        self._history_at = now
        if before in ("", self._history):
            return False
        log.warning("Redis was started again, or replaced: comparing every stream anew")
        return True

    def _received(self) -> Iterator[Message]:
        """Yield the messages in the queue; wait for one while the queue is empty and no stream is due."""
        due = self.loop.next_due()
        wait = HEARTBEAT if due is None else min(HEARTBEAT, max(0.0, due - time.monotonic()))
        wait = min(wait, 0.5)  # so that `stop` is heard
        try:
            yield self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            for _ in range(self._queue.qsize()):
                yield self._queue.get_nowait()
        except queue.Empty:
            return

    # --- threads

    def _thread(self, name: str, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        return thread

    def _start_watch(self, watch: Watch, namespace: str) -> None:
        if (watch, namespace) not in self._threads:
            name = f"watch {watch.kind} {namespace}"
            self._threads[(watch, namespace)] = self._thread(name, self._follow, watch, namespace)

    def _follow(self, watch: Watch, namespace: str) -> None:
        """Put everything that a watch yields into the queue, until `stop`."""
        backoff, failures, name = Backoff(base=0.5, cap=30.0), 0, f"{watch.kind} in {namespace}"
        while not self._stop.is_set():
            try:
                if self._other_holder(namespace) is not None:
                    self._stop.wait(LEASE_AGAIN)
                    continue
                for event in self._cluster.watch(watch.api_version, watch.kind, namespace, labels=watch.labels):
                    failures = 0
                    self._last_seen = time.time()
                    self._queue.put(Changed(watch, namespace, event))
                    if self._stop.is_set():
                        return
                    if self._other_holder(namespace) is not None:
                        break
            except Exception as error:
                # The adapter waits out passing failures; this is a kind that is not served, or a missing permission.
                failures += 1
                seconds = backoff.delay(failures, random.random())
                text = str(error) if isinstance(error, AgentplaneError) else type(error).__name__
                say = log.error if failures & (failures - 1) == 0 else log.debug  # at 1, 2, 4, 8, … failures
                say("watch failed", watch=name, again_in=round(seconds, 1), error=text)
                self._stop.wait(seconds)

    def _tail(self) -> None:
        """Put the name of every stream that grows into the queue, until `stop`."""
        after: int | None = None
        while not self._stop.is_set():
            try:
                for record in self._events.tail(after, until=self._stop.is_set):
                    after = record.position
                    self._queue.put(Appended(record.stream))
            except Exception as error:
                text = str(error) if isinstance(error, AgentplaneError) else type(error).__name__
                log.warning("tail interrupted", error=text)
                self._gap.set()
                self._stop.wait(AGAIN)

    def _beat(self) -> None:
        dead = sorted(thread.name for thread in self._threads.values() if not thread.is_alive())
        if dead:
            log.error("watch threads ended", threads=dead)
        elif self._heartbeat is not None:
            content = orjson.dumps({"at": time.time(), "last_seen": self._last_seen, "watches": len(self._threads)})
            new = self._heartbeat.with_name(f"{self._heartbeat.name}.new")
            new.write_bytes(content)
            new.replace(self._heartbeat)


# --- the process


def observers_of(engine: bootstrap.Engine) -> list[Observer[Any]]:
    """Return the observers of the components that run here."""
    observers: list[Observer[Any]] = []
    settings = engine.settings
    listener_id = str(settings.listener_id) if settings.share_namespaces else ""
    for machine in engine.machines.values():
        if isinstance(machine, OperatorMachine):
            observers.append(
                OperatorObserver(machine, engine.ports.cluster, engine.ports.digest, listener_id=listener_id)
            )
        elif isinstance(machine, ListenerMachine):
            observers.append(ListenerObserver(machine, engine.ports.cluster))
    return observers


def heartbeat_file(settings: Settings) -> Path:
    """Return the heartbeat file of this installation's watcher on this machine."""
    return heartbeat.heartbeat_file(settings, "watcher")


def check(path: Path, now: float) -> str | None:
    """Return what is wrong with the watcher that writes `path`, None when the watcher is alive.

    `now` is seconds since 1970.
    """
    try:
        age = now - float(orjson.loads(path.read_bytes())["at"])
    except FileNotFoundError:
        return f"{path} does not exist: the watcher has not started"
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        return f"{path} cannot be read: {error}"
    return f"the last sign of life in {path} is {age:.0f} s old (at most {STALE:.0f})" if age > STALE else None


def watch(engine: bootstrap.Engine, heartbeat_file: Path | None = None) -> Watcher:
    """Return the watcher of an engine, ready to `run`."""
    return Watcher(
        observers_of(engine),
        engine.settings.watch_namespaces,
        engine.events,
        engine.ports.cluster,
        engine.dispatcher,
        heartbeat_file=heartbeat_file,
        other_holder=engine.leases.seen_holder,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m workers.watcher", description="Watch the cluster.")
    parser.add_argument("--check", action="store_true", help="check whether the watcher on this machine is alive")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        problem = check(heartbeat_file(settings), time.time())
        print(problem or "alive", file=sys.stderr)
        return 1 if problem else 0
    telemetry.configure(settings, "watcher")
    engine = bootstrap.build(settings, CeleryDispatcher(settings))
    # So that what the watcher appends can be replayed from the first event on.
    if not recorded(engine.configurations.record_first):
        return 1
    watcher = watch(engine, heartbeat_file(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    log.info("ready", namespaces=settings.watch_namespaces)
    # The connections stay open: other threads are using them, and all end with the process.
    watcher.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
