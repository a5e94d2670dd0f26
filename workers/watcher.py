"""The watcher: what happens in the cluster, as events.

Theory of operation. One thread per watch and one that tails the log put what they learn into a queue; a single
thread, the *core*, takes it out. An object goes into the views (`engine/operator/observation/observer.py`), the
projections of the cluster;
a stream that it concerns becomes *pending*. When a stream is judged, its view compares the whole of what is known of
the cluster with the newest state of the stream, and what the log does not know yet is appended, on condition that the
state is still the newest (ConcurrencyConflict: judge again). So it does not matter which change woke a stream, in
what order things came, or how often: an observation that equals the log is no event.

Our own writes must not look like drift, and neither must a watch that lags behind the log. So whatever a view only
*suspects* is held for HOLD seconds, and while anybody advances the stream, and is then confirmed by fresh reads and
judged against the newest state once more.

A stream is judged again after every event that anybody appends to it: what is observed may matter only now.

Nothing here is memory that would be missed: after a restart everything is listed, and streams of LGPs that are not on
the complete list are judged too. A broken watch, an expired one, an API server or a Redis that restarts are waited
out by the threads that meet them.

The heartbeat file is written while the core works and every watch thread lives; `python -m workers.watcher --check`
fails when it is older than STALE seconds, which is what a probe wants to know.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine import bootstrap, telemetry
from engine.errors import (
    AgentplaneError,
    ClusterUnavailable,
    ConcurrencyConflict,
    LogUnavailable,
    ObjectRefused,
    SettingsError,
)
from engine.event import Event
from engine.listener.machine import ListenerMachine
from engine.listener.observation.observer import ListenerObserver
from engine.log.contract import EventLog
from engine.operator.machine import OperatorMachine
from engine.operator.observation.observer import OperatorObserver
from engine.ports import Cluster, Dispatcher, WatchEvent
from engine.runtime.fold import Fold
from engine.runtime.observation import SOON, Observer, Watch
from engine.runtime.retry import REFUSED_BASE, Backoff
from engine.settings import Settings
from workers import heartbeat
from workers.__main__ import recorded
from workers.dispatch import CeleryDispatcher

log = structlog.get_logger(__name__)

ACTOR = "watcher"

HOLD = 1.0
"""Seconds that a suspicion is held before it is confirmed."""
LOCKED = 0.25
"""Seconds before looking again at a suspicion about a stream that is being advanced."""
AGAIN = 1.0
"""Seconds before a judgement that failed for want of a peer is tried again."""
LEASE_AGAIN = 2.0
"""Seconds before looking again whether another data plane still holds a namespace."""
HISTORY = 1.0
"""Seconds between two looks whether the log was taken back."""
HEARTBEAT = 5.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds after which the last sign of life is too old."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A line of a watch."""

    watched: Watch
    namespace: str
    event: WatchEvent


@dataclass(frozen=True, slots=True)
class Appended:
    """A stream has new events."""

    stream: str


Message = Changed | Appended


class Core:
    """The single-threaded part: takes messages, keeps the views, judges streams."""

    def __init__(
        self, views: Sequence[Observer], events: EventLog, dispatcher: Dispatcher, *, hold: float = HOLD
    ) -> None:
        self._views = {view.machine.stream_prefix: view for view in views}
        self._events = events
        self._dispatcher = dispatcher
        self._hold = hold
        self._folds: dict[str, Fold[Any]] = {}
        self._stale: set[str] = set()
        """Streams whose fold may be behind the log."""
        self._pending: dict[str, float] = {}
        """Stream → when to judge it."""
        self._unconfirmed: dict[str, float] = {}
        """Stream → since when something is suspected of it."""
        self.extra_watches: set[tuple[Watch, str]] = set()
        """Watches that states call for beyond the usual ones, with their namespaces."""

    # --- taking in

    def take(self, message: Message, now: float) -> None:
        """Take one message in. `now` is monotonic, in seconds, here and below."""
        match message:
            case Appended(stream):
                self._stale.add(stream)
                if self._view(stream) is not None:
                    self._ask(stream, now + SOON)
            case Changed(watched, namespace, event):
                self._see(watched, namespace, event, now)

    def _see(self, watched: Watch, namespace: str, event: WatchEvent, now: float) -> None:
        for view in self._views.values():
            try:
                if event.type == "SYNCED":
                    touched = view.on_synced(watched, namespace, self._events.streams)
                else:
                    there = event.type != "DELETED"
                    touched = view.on_change(watched, namespace, event.object, there=there)
                for stream, delay in touched:
                    self._ask(stream, now + delay)
            except LogUnavailable:
                raise
            except Exception as error:
                name = event.object.get("metadata", {}).get("name", "?")
                log.error("object not understood", kind=watched.kind, object=name, error=type(error).__name__)

    def _ask(self, stream: str, at: float) -> None:
        self._pending[stream] = min(at, self._pending.get(stream, at))

    def _view(self, stream: str) -> Observer | None:
        return next((view for prefix, view in self._views.items() if stream.startswith(prefix)), None)

    # --- judging

    def next_due(self) -> float | None:
        """Return when the next stream is to be judged, None when none is."""
        return min(self._pending.values(), default=None)

    def judge_due(self, now: float) -> int:
        """Judge every stream whose time has come; return how many events that made. Raises LogUnavailable."""
        due = sorted((at, stream) for stream, at in self._pending.items() if at <= now)
        return sum(self._judge(stream, now) for _, stream in due)

    def _judge(self, stream: str, now: float) -> int:
        self._pending.pop(stream, None)
        view = self._view(stream)
        if view is None:
            return 0
        try:
            return self._appended(stream, view, now)
        except ConcurrencyConflict:
            self._stale.add(stream)
            self._ask(stream, now)
        except LogUnavailable:
            self._ask(stream, now)
            raise
        except ClusterUnavailable as error:
            log.warning("judgement postponed", stream=stream, error=str(error))
            self._ask(stream, now + AGAIN * (0.5 + random.random()))
        except ObjectRefused as error:
            log.error("judgement refused", stream=stream, again_in=REFUSED_BASE, error=str(error))
            self._ask(stream, now + REFUSED_BASE)
        except AgentplaneError as error:
            # An event of a newer program, say: only this stream stops, until something new is appended to it.
            log.error("stream not judged", stream=stream, error=str(error))
            self._folds.pop(stream, None)
        return 0

    def _appended(self, stream: str, view: Observer, now: float) -> int:
        """Append what the view adds to the stream; return how many events."""
        fold = self._fold(stream, view)
        self.extra_watches.update(view.extra_watches(fold.state))
        seen = view.observe(stream, fold.state)
        unconfirmed: Iterable[Event] = ()
        if not seen.unconfirmed:
            self._unconfirmed.pop(stream, None)
        elif (
            self._debounced(stream, now) and not seen.certain
        ):  # a look that is refused must not hold up what is certain
            view.confirm(stream, fold.state, seen.unconfirmed)
            fold = self._fold(stream, view, fresh=True)
            seen = view.observe(stream, fold.state)
            unconfirmed = seen.unconfirmed
            self._unconfirmed.pop(stream, None)
        events = [*seen.certain, *unconfirmed]
        if not events:
            return 0
        # The fold stays as it is until it has read back what it appends, like everybody else's events.
        self._stale.add(stream)
        mark = self._events.work_token(stream)
        self._events.append(stream, fold.version, events, actor=ACTOR)
        log.info("observed", stream=stream, version=fold.version + len(events), events=[event.type for event in events])
        # A stream that was dirty before and has been since is asked for already: its message waits in a queue, or
        # somebody is at work on it, who cannot settle it without seeing these events.
        if not mark or self._events.work_token(stream) != mark:
            self._dispatch(stream)
        self._ask(stream, now + SOON)
        return len(events)

    def _dispatch(self, stream: str) -> None:
        try:
            self._dispatcher.dispatch(stream)
        except Exception as error:
            # The stream is dirty, so the next sweep finds it.
            log.warning("not dispatched", stream=stream, error=type(error).__name__)

    def _debounced(self, stream: str, now: float) -> bool:
        """Whether a suspicion was held long enough, and nobody is at work on the stream."""
        since = self._unconfirmed.setdefault(stream, now)
        if now - since < self._hold:
            self._ask(stream, since + self._hold)
            return False
        if self._events.locked(stream):
            self._ask(stream, now + LOCKED)
            return False
        return True

    def _fold(self, stream: str, view: Observer, *, fresh: bool = False) -> Fold[Any]:
        fold = self._folds.get(stream)
        if fold is None:
            fold = self._folds[stream] = Fold(view.machine, self._events, stream)
            fold.catch_up()
        elif fresh or stream in self._stale:
            fold.catch_up()
        self._stale.discard(stream)
        return fold

    def judge_everything(self, now: float) -> None:
        """Fold and judge every known stream anew: the log may have come back without its last moment."""
        for stream in self._folds:
            self._ask(stream, now)
        self._folds.clear()


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
    """The process: threads that watch and tail, and the core."""

    def __init__(
        self,
        views: Sequence[Observer],
        namespaces: Sequence[str],
        events: EventLog,
        cluster: Cluster,
        dispatcher: Dispatcher,
        *,
        hold: float = HOLD,
        sign: Path | None = None,
        other_holder: Callable[[str], str | None] = lambda _namespace: None,
    ) -> None:
        """`other_holder` names the other data plane that holds a namespace, which is then not watched."""
        self.core = Core(views, events, dispatcher, hold=hold)
        self._views = views
        self._namespaces = tuple(namespaces)
        self._events = events
        self._cluster = cluster
        self._heartbeat = sign
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
        for view in self._views:
            for watched in view.watches():
                for namespace in self._namespaces:
                    self._watch(watched, namespace)
            for watched, namespace in view.external_watches():
                self._watch(watched, namespace)
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
        """Take what came, then judge what is due. A message stays in the backlog until it was taken in whole."""
        backlog.extend(self._received())
        now = time.monotonic()
        if self._gap.is_set() or self._taken_back(now):
            self._gap.clear()
            self.core.judge_everything(now)
        while backlog:
            self.core.take(backlog[0], now)
            backlog.popleft()
        self.core.judge_due(time.monotonic())
        for watched, namespace in self.core.extra_watches:
            if namespace in self._namespaces:
                self._watch(watched, namespace)

    def _taken_back(self, now: float) -> bool:
        """Whether the log is in another history than it was."""
        if now - self._history_at < HISTORY:
            return False
        before, self._history = self._history, self._events.history()
        self._history_at = now
        if before in ("", self._history):
            return False
        log.warning("Redis was started again, or replaced: judging everything anew")
        return True

    def _received(self) -> Iterator[Message]:
        """Yield what is in the queue; when there is nothing, wait until something comes or is due."""
        due = self.core.next_due()
        wait = HEARTBEAT if due is None else min(HEARTBEAT, max(0.0, due - time.monotonic()))
        wait = min(wait, 0.5)  # so that `stop` is heard
        try:
            yield self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            for _ in range(self._queue.qsize()):
                yield self._queue.get_nowait()
        except queue.Empty:
            return

    # --- threads

    def _thread(self, name: str, target: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        return thread

    def _watch(self, watched: Watch, namespace: str) -> None:
        if (watched, namespace) not in self._threads:
            name = f"watch {watched.kind} {namespace}"
            self._threads[(watched, namespace)] = self._thread(name, self._follow, watched, namespace)

    def _follow(self, watched: Watch, namespace: str) -> None:
        """Put everything that a watch yields into the queue, for ever."""
        backoff, failures, name = Backoff(base=0.5, cap=30.0), 0, f"{watched.kind} in {namespace}"
        while not self._stop.is_set():
            try:
                if self._other_holder(namespace) is not None:
                    self._stop.wait(LEASE_AGAIN)
                    continue
                for event in self._cluster.watch(watched.api_version, watched.kind, namespace, labels=watched.labels):
                    failures = 0
                    self._last_seen = time.time()
                    self._queue.put(Changed(watched, namespace, event))
                    if self._stop.is_set():
                        return
                    if self._other_holder(namespace) is not None:
                        break
            except Exception as error:
                # The adapter waits out what passes; this is a kind that is not served or a missing permission.
                failures += 1
                seconds = backoff.delay(failures, random.random())
                text = str(error) if isinstance(error, AgentplaneError) else type(error).__name__
                say = log.error if failures & (failures - 1) == 0 else log.debug  # ever more rarely
                say("watch failed", watch=name, again_in=round(seconds, 1), error=text)
                self._stop.wait(seconds)

    def _tail(self) -> None:
        """Put the name of every stream that grows into the queue, for ever."""
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


def observers_of(engine: bootstrap.Engine) -> list[Observer]:
    """Return the views of the components that run here."""
    views: list[Observer] = []
    settings = engine.settings
    own = str(settings.listener_id) if settings.share_namespaces else ""
    for machine in engine.machines.values():
        if isinstance(machine, OperatorMachine):
            views.append(OperatorObserver(machine, engine.ports.cluster, engine.ports.digest, own=own))
        elif isinstance(machine, ListenerMachine):
            views.append(ListenerObserver(machine, engine.ports.cluster))
    return views


def heartbeat_file(settings: Settings) -> Path:
    """Return where the watcher of this installation leaves its sign of life on this machine."""
    return heartbeat.heartbeat_file(settings, "watcher")


def check(path: Path, now: float) -> str | None:
    """Return what is wrong with the watcher that writes `path`, None when it is alive. `now` is Unix time."""
    try:
        age = now - float(orjson.loads(path.read_bytes())["at"])
    except FileNotFoundError:
        return f"{path} does not exist: the watcher has not started"
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        return f"{path} cannot be read: {error}"
    return f"the last sign of life in {path} is {age:.0f} s old (at most {STALE:.0f})" if age > STALE else None


def watch(engine: bootstrap.Engine, sign: Path | None = None) -> Watcher:
    """Return the watcher of an engine, ready to `run`."""
    return Watcher(
        observers_of(engine),
        engine.settings.watch_namespaces,
        engine.events,
        engine.ports.cluster,
        engine.dispatcher,
        sign=sign,
        other_holder=engine.leases.seen_holder,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m workers.watcher", description="Watch the cluster.")
    parser.add_argument("--check", action="store_true", help="say whether the watcher on this machine is alive")
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
    if not recorded(engine.configurations.record_first):  # what we append can be replayed from the first event on
        return 1
    watcher = watch(engine, heartbeat_file(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    log.info("ready", namespaces=settings.watch_namespaces)
    # The connections are not closed: other threads are in the middle of using them, and all end with the process.
    watcher.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
