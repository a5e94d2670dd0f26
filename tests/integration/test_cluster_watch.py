"""Watches outlive their connections: connections that are cut, stalled, restarted, expired or broken."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
import pytest

from engine.errors import ClusterUnavailable, ObjectRefused, WatchExpired
from engine.kubernetes.cluster import KubernetesCluster
from engine.kubernetes.http import load_configuration
from engine.kubernetes.watch import Listed, Watch
from engine.ports import Manifest, ObjectKey, WatchEvent
from tests.support.api_servers import ApiServer

MANAGER = "test-manager"
PATIENCE = 60.0

Proxied = Callable[..., KubernetesCluster]


class TcpProxy:
    """Passes bytes between a client and a server until a test calls `cut` or `stall`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ends: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self.connections += 1
            self._pairs.append((client, server))
            self._ends += [client, server]
            for one, other in ((client, server), (server, client)):
                self._pumps.append(threading.Thread(target=self._pump, args=(one, other), daemon=True))
                self._pumps[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                self._flowing.wait()
                sink.sendall(part)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every open connection."""
        pairs, self._pairs = self._pairs, []
        for end in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Pass no more bytes on the open connections, without closing them, as a dead network does."""
        self._flowing.clear()
        self._flowing = threading.Event()
        self._flowing.set()

    def close(self) -> None:
        self._listener.close()
        self.cut()
        for pump in self._pumps:
            pump.join(5)
        for end in self._ends:
            end.close()


class Watcher:
    """Runs a watch in a thread and hands out its events."""

    def __init__(self, events: Iterator[WatchEvent]) -> None:
        self._seen: queue.Queue[WatchEvent] = queue.Queue()
        self._events = events
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for event in self._events:
            self._seen.put(event)

    def next(self) -> tuple[str, str]:
        """Return (type, name) of the next event."""
        event = self._seen.get(timeout=PATIENCE)
        return event.type, str(event.object.get("metadata", {}).get("name", ""))

    def until(self, kind: str, name: str = "") -> list[tuple[str, str]]:
        """Return (type, name) of all events up to the first event of this type and name."""
        seen = [self.next()]
        while seen[-1] != (kind, name):
            seen.append(self.next())
        return seen


def config_map(namespace: str, name: str, **values: str) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": {"set": "ours"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": values}


def key(namespace: str, name: str) -> ObjectKey:
    return ObjectKey(api_version="v1", kind="ConfigMap", namespace=namespace, name=name)


@pytest.fixture
def cluster(api_server: ApiServer) -> Iterator[KubernetesCluster]:
    cluster = KubernetesCluster.load(api_server.kubeconfig)
    yield cluster
    cluster.close()


@pytest.fixture
def proxy(api_server: ApiServer) -> Iterator[TcpProxy]:
    host, _, port = api_server.url.partition("://")[2].partition(":")
    proxy = TcpProxy(host, int(port))
    yield proxy
    proxy.close()


@pytest.fixture
def closing() -> Iterator[list[KubernetesCluster]]:
    """Return a list; the fixture closes each cluster in the list, with its watches, after the test."""
    clusters: list[KubernetesCluster] = []
    yield clusters
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def proxied(proxy: TcpProxy, api_server: ApiServer, closing: list[KubernetesCluster]) -> Proxied:
    """Return a function that makes clusters whose requests go through the proxy."""

    def make(**options: Any) -> KubernetesCluster:
        closing.append(through(proxy, api_server, **options))
        return closing[-1]

    return make


def through(proxy: TcpProxy, api_server: ApiServer, **options: Any) -> KubernetesCluster:
    configuration = load_configuration(api_server.kubeconfig)
    configuration.refresh_api_key_hook = None  # the hook would set the kubeconfig's URL again
    configuration.host = configuration.host.replace(f":{configuration.host.rsplit(':')[-1]}", f":{proxy.port}")
    return KubernetesCluster(configuration, **options)


def watch(cluster: KubernetesCluster, namespace: str) -> Watcher:
    return Watcher(cluster.watch("v1", "ConfigMap", namespace, labels="set=ours"))


def test_a_watch_lists_then_follows(cluster: KubernetesCluster, namespace: str) -> None:
    cluster.apply(config_map(namespace, "first"), manager=MANAGER)
    watcher = watch(cluster, namespace)
    assert watcher.until("SYNCED") == [("ADDED", "first"), ("SYNCED", "")]

    cluster.apply(config_map(namespace, "second"), manager=MANAGER)
    cluster.apply(config_map(namespace, "first", colour="red"), manager=MANAGER)
    cluster.delete(key(namespace, "second"))

    assert watcher.until("DELETED", "second") == [("ADDED", "second"), ("MODIFIED", "first"), ("DELETED", "second")]


def test_a_cut_connection_is_resumed_without_a_gap_or_a_repetition(
    cluster: KubernetesCluster, proxy: TcpProxy, proxied: Proxied, namespace: str
) -> None:
    cluster.apply(config_map(namespace, "first"), manager=MANAGER)
    watcher = watch(proxied(), namespace)
    watcher.until("SYNCED")

    proxy.cut()
    cluster.apply(config_map(namespace, "in-the-gap"), manager=MANAGER)

    assert watcher.until("ADDED", "in-the-gap") == [("ADDED", "in-the-gap")]


def test_a_silent_dead_connection_is_noticed(
    cluster: KubernetesCluster, proxy: TcpProxy, proxied: Proxied, namespace: str
) -> None:
    watcher = watch(proxied(watch_seconds=2.0), namespace)
    watcher.until("SYNCED")

    proxy.stall()
    cluster.apply(config_map(namespace, "in-the-silence"), manager=MANAGER)

    assert ("ADDED", "in-the-silence") in watcher.until("ADDED", "in-the-silence")


def test_an_idle_watch_is_renewed_by_resuming(
    cluster: KubernetesCluster, proxy: TcpProxy, proxied: Proxied, namespace: str
) -> None:
    watcher = watch(proxied(watch_seconds=1.0), namespace)
    watcher.until("SYNCED")
    time.sleep(2.5)  # a few renewals

    cluster.apply(config_map(namespace, "late"), manager=MANAGER)

    assert watcher.until("ADDED", "late") == [("ADDED", "late")]  # no second SYNCED: the watch did not list again


def test_a_watch_survives_a_restart_of_the_api_server(
    api_server: ApiServer, cluster: KubernetesCluster, namespace: str
) -> None:
    cluster.apply(config_map(namespace, "stays"), manager=MANAGER)
    cluster.apply(config_map(namespace, "goes"), manager=MANAGER)
    watcher = watch(cluster, namespace)
    watcher.until("SYNCED")

    api_server.restart()
    again = KubernetesCluster.load(api_server.kubeconfig)
    retrying(lambda: again.apply(config_map(namespace, "comes"), manager=MANAGER))
    retrying(lambda: again.delete(key(namespace, "goes")))

    seen: list[tuple[str, str]] = []
    while not {("ADDED", "comes"), ("DELETED", "goes")} <= set(seen):
        seen.append(watcher.next())
    assert len([event for event in seen if event != ("SYNCED", "")]) == 2


def test_closing_the_generator_closes_the_connection(
    cluster: KubernetesCluster, proxy: TcpProxy, proxied: Proxied, namespace: str
) -> None:
    cluster.apply(config_map(namespace, "first"), manager=MANAGER)
    events = proxied().watch("v1", "ConfigMap", namespace)
    seen = [next(events)]
    while seen[-1].type != "SYNCED":
        seen.append(next(events))
    cluster.apply(config_map(namespace, "second"), manager=MANAGER)
    while seen[-1].object.get("metadata", {}).get("name") != "second":
        seen.append(next(events))

    events.close()  # type: ignore[attr-defined]

    with pytest.raises(StopIteration):
        next(events)


def test_closing_the_cluster_ends_its_watches_in_other_threads(cluster: KubernetesCluster, namespace: str) -> None:
    watcher = watch(cluster, namespace)
    watcher.until("SYNCED")

    cluster.close()

    watcher.thread.join(10)
    assert not watcher.thread.is_alive()


def retrying(write: Any) -> None:
    """Do what the loop does: retry after a temporary failure."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            write()
            return
        except ClusterUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# --- faults that no real server produces on demand


class Script:
    """A source that returns the given lists and streams; an item of a stream is a line or an error."""

    def __init__(self, lists: list[Any], streams: list[list[Any]]) -> None:
        self._lists = lists
        self._streams = streams
        self.resumed: list[str] = []

    @property
    def unplayed(self) -> list[Any]:
        return [*self._lists, *self._streams]

    def list(self) -> Listed:
        found = self._lists.pop(0)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Listed)
        return found

    @contextlib.contextmanager
    def stream(self, resource_version: str) -> Iterator[Iterator[bytes]]:
        self.resumed.append(resource_version)
        if not self._streams:
            raise EndOfScriptError
        yield self._play(self._streams.pop(0))

    @staticmethod
    def _play(items: Iterable[Any]) -> Iterator[bytes]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item


class EndOfScriptError(Exception):
    pass


def thing(name: str, version: int, uid: str = "") -> Manifest:
    metadata = {"name": name, "namespace": "n", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"at": str(version)}}


def line(kind: str, manifest: Manifest) -> bytes:
    return orjson.dumps({"type": kind, "object": manifest})


def play(script: Script) -> tuple[list[tuple[str, str]], list[float], list[WatchEvent]]:
    slept: list[float] = []
    seen: list[WatchEvent] = []
    with contextlib.suppress(EndOfScriptError):
        for event in Watch(script, "things", sleep=slept.append, chance=lambda: 1.0).events():
            seen.append(event)
    assert not script.unplayed
    return [(e.type, e.object.get("metadata", {}).get("name", "")) for e in seen], slept, seen


def listed(version: int, *things: Manifest) -> Listed:
    return Listed(items=list(things), resource_version=str(version))


GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


@pytest.mark.parametrize(
    "expiry", [WatchExpired("410"), line("ERROR", GONE)], ids=["status of the answer", "line of the stream"]
)
def test_after_410_only_changes_of_the_gap_are_yielded(expiry: Any) -> None:
    before = [thing("same", 1), thing("changed", 2), thing("gone", 3), thing("replaced", 4, "uid-old")]
    after = [thing("same", 1), thing("changed", 9), thing("replaced", 8, "uid-new"), thing("new", 7)]
    script = Script([listed(5, *before), listed(10, *after)], [[expiry]])

    seen, slept, events = play(script)

    gap = seen[seen.index(("SYNCED", "")) + 1 :]
    assert sorted(gap) == [
        ("ADDED", "new"),
        ("ADDED", "replaced"),
        ("DELETED", "gone"),
        ("DELETED", "replaced"),
        ("MODIFIED", "changed"),
        ("SYNCED", ""),
    ]
    assert gap.index(("DELETED", "replaced")) < gap.index(("ADDED", "replaced"))
    assert slept == []  # status 410 is no failure of the server
    assert script.resumed == ["5", "10"]
    deleted = next(event.object for event in events if event.type == "DELETED")
    assert (deleted["kind"], deleted["metadata"]["uid"]) == ("ConfigMap", "uid-gone")


def test_bookmarks_move_the_place_to_resume_from_and_are_not_yielded() -> None:
    bookmark = line("BOOKMARK", {"kind": "ConfigMap", "metadata": {"resourceVersion": "42"}})
    script = Script([listed(5)], [[bookmark]])

    seen, _, _ = play(script)

    assert seen == [("SYNCED", "")]
    assert script.resumed == ["5", "42"]


def test_a_truncated_line_resumes_after_the_last_complete_line() -> None:
    whole, cut = line("ADDED", thing("whole", 6)), line("ADDED", thing("cut", 7))[:30]
    script = Script([listed(5)], [[whole, cut], [line("ADDED", thing("cut", 7))]])

    seen, slept, _ = play(script)

    assert seen == [("SYNCED", ""), ("ADDED", "whole"), ("ADDED", "cut")]
    assert script.resumed == ["5", "6", "7"]
    assert len(slept) == 1


def test_an_unreachable_server_is_retried_with_growing_delays_and_then_listed_again() -> None:
    away = ClusterUnavailable("connection refused")
    script = Script([listed(5, thing("a", 1)), away, away, listed(9, thing("a", 1))], [[away], [away], [away], []])

    seen, slept, _ = play(script)

    assert seen == [("ADDED", "a"), ("SYNCED", ""), ("SYNCED", "")]  # the second list found nothing new
    assert slept == sorted(slept)
    assert slept[-1] > 4 * slept[0]


def test_a_refusal_raises_at_the_start_and_is_retried_later() -> None:
    refusal = ObjectRefused("cannot list", status=403)
    with pytest.raises(ObjectRefused):
        next(iter(Watch(Script([refusal], []), "things").events()))

    seen, slept, _ = play(Script([listed(5)], [[refusal], []]))

    assert seen == [("SYNCED", "")]
    assert len(slept) == 1
