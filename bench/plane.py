"""A data plane in this process: threads do the work of workers, beat and watcher, and every request is counted.

In one process, the benchmark can count which component sent which request to Kubernetes. Each component has a
connection of its own, as in production.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from engine import bootstrap
from engine.errors import LogUnavailable
from engine.kubernetes.cluster import KubernetesCluster
from engine.names import LGP_KIND
from engine.ports import WatchEvent
from engine.settings import Settings
from workers.watcher import Watcher, watch

THREADS = 4
"""How many streams a component advances at the same time."""
SWEEP = 0.2
"""Seconds between two sweeps for due streams."""
FORGOTTEN = 2.0
"""Seconds after which a stream that is still dirty is dispatched again."""

READ, WRITE, STATUS = "read", "write", "status"


class CountedCluster(KubernetesCluster):
    """The Kubernetes API; every request is counted when it is sent, except watches."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.requests: Counter[tuple[str, str]] = Counter()
        """Number of requests by kind and path. A kind is READ, WRITE or STATUS (a write of the status).

        A creation counts for the path of its collection.
        """
        self.synced = 0
        """How many watches have delivered their first list."""
        self._counting = threading.Lock()
        send = self._http.call

        def call(method: str, path: str, *arguments: Any, **named: Any) -> Any:
            if "/leases" in path:  # renewals of the namespace lease do not depend on the work
                return send(method, path, *arguments, **named)
            kind = READ if method == "GET" else STATUS if path.endswith("/status") else WRITE
            with self._counting:
                self.requests[kind, path.removesuffix("/status")] += 1
            return send(method, path, *arguments, **named)

        self._http.call = call  # type: ignore[method-assign]

    def watch(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> Iterator[WatchEvent]:
        for event in super().watch(api_version, kind, namespace, labels=labels):
            yield event
            if event.type == "SYNCED":  # counted when the watcher asks for the next event: it has handled this one
                with self._counting:
                    self.synced += 1


class Plane:
    """Listener, operator and watcher, running in threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.listener, self.operator = self._engine(), self._engine()
        self.watching = self._engine()
        self.watcher = watch(self.watching)
        self._pool = ThreadPoolExecutor(2 * THREADS)
        self._busy = 0
        self._counting = threading.Lock()
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failures: list[str] = []
        """The unexpected errors of all threads."""

    def _engine(self) -> bootstrap.Engine:
        cluster = CountedCluster.load(
            self.settings.kubeconfig, self.settings.kube_context, watch_seconds=self.settings.watch_seconds
        )
        return bootstrap.build(self.settings, self, cluster=cluster)

    def dispatch(self, stream: str) -> None:
        """Advance `stream` in a thread of the component that owns it."""
        component = self.operator if stream.startswith("lgp/") else self.listener
        with self._counting:
            self._busy += 1
        self._pool.submit(self._advance, component, stream)

    def _advance(self, component: bootstrap.Engine, stream: str) -> None:
        try:
            if component.owns(stream):
                component.advance(stream)
        except LogUnavailable:
            pass  # the next sweep dispatches the stream again
        except Exception as error:
            self.failures.append(f"{stream}: {error!r}")
        finally:
            with self._counting:
                self._busy -= 1

    # --- running

    def start(self) -> None:
        self.listener.configurations.record()
        self._start(self._poll)
        self._start(self._sweep)
        self._watch(self.watcher)

    def stop(self) -> None:
        self._done.set()
        self.watcher.stop()
        for thread in self._threads:
            thread.join(10)
        self._pool.shutdown(cancel_futures=True)
        for engine in (self.listener, self.operator, self.watching):
            engine.close()

    def restart_watcher(self) -> None:
        """End the watcher, start a new one, and wait until it has listed everything and the data plane rests."""
        self.watcher.stop()
        self.watching.close()
        self.watching = self._engine()
        self.watcher = watch(self.watching)
        self._watch(self.watcher)
        expected = sum(len(observer.watches()) for observer in self.watcher._observers) - self._shared()
        _until("the new watcher has listed everything", 60, lambda: counted(self.watching).synced >= expected)
        self.rest()

    def _shared(self) -> int:
        """Return how many watches the observers of both components have in common; these are opened only once."""
        watches = [watch for observer in self.watcher._observers for watch in observer.watches()]
        return len(watches) - len(set(watches))

    def _watch(self, watcher: Watcher) -> None:
        self._start(watcher.run)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _poll(self) -> None:
        while not self._done.wait(self.settings.poll_seconds):
            self.listener.poll()

    def _sweep(self) -> None:
        while not self._done.wait(SWEEP):
            due = self.listener.events.take_due(self.listener.ports.clock.now())
            for stream in dict.fromkeys([*due, *self.listener.events.take_dirty(FORGOTTEN)]):
                self.dispatch(stream)

    # --- observing

    def rest(self, seconds: float = 2.0, patience: float = 90.0) -> None:
        """Wait until for `seconds` no event was appended and no stream was dirty or being advanced.

        Raises TimeoutError after `patience` seconds.
        """
        events = self.listener.events
        since, head = time.monotonic(), -1

        def quiet() -> bool:
            nonlocal since, head
            now = events.head()
            if now != head or self._busy or events.dirty():
                since, head = time.monotonic(), now
            return time.monotonic() - since >= seconds

        _until("the data plane comes to rest", patience, quiet)

    def requests(self) -> dict[str, Counter[tuple[str, str]]]:
        """Return the requests sent to Kubernetes so far, by component."""
        components = {"listener": self.listener, "operator": self.operator, "watcher": self.watching}
        return {name: Counter(counted(component).requests) for name, component in components.items()}

    def writes(self) -> int:
        """Return the number of writes to Kubernetes so far, including those of a status."""
        sent = self.requests().values()
        return sum(count for component in sent for (kind, _), count in component.items() if kind != READ)

    def appended(self) -> int:
        """Return the number of events in the log."""
        return sum(self.listener.events.versions().values())


def counted(component: bootstrap.Engine) -> CountedCluster:
    """Return the connection of a component."""
    cluster = component.ports.cluster
    assert isinstance(cluster, CountedCluster)
    return cluster


def lgp_path(path: str) -> bool:
    """Whether a path is that of an LGP."""
    return f"/{LGP_KIND.lower()}s/" in path


@contextmanager
def at_work(settings: Settings) -> Iterator[Plane]:
    """Yield a running data plane; stop it at the end of the block."""
    plane = Plane(settings)
    plane.start()
    try:
        yield plane
    finally:
        plane.stop()


def _until(what: str, seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected within {seconds:g} s: {what}")
        time.sleep(0.05)
