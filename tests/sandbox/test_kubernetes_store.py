"""The store of the API server: versions, history, watches, and persistence."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from sandbox.kubernetes import store as stores
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.store import Object, Store


def thing(name: str, **fields: object) -> Object:
    return {"metadata": {"name": name, "namespace": "default"}, **fields}


def test_one_counter_for_everything() -> None:
    store = Store()
    begun = store.version
    store.create("pods", thing("a"))
    store.create("secrets", thing("a"))
    store.update("pods", thing("a", spec=1))
    deleted = store.delete("pods", "default", "a")
    assert store.version == begun + 4 == deleted.version
    assert deleted.object["metadata"]["resourceVersion"] == str(deleted.version)
    assert store.get("pods", "default", "a") is None


def test_a_reader_keeps_its_view() -> None:
    store = Store()
    store.create("pods", thing("a", spec=1))
    listed = store.list("pods")
    store.update("pods", thing("a", spec=2))
    store.delete("pods", "default", "a")
    assert listed[0].object["spec"] == 1
    listed[0].copy()["spec"] = 3
    assert listed[0].object["spec"] == 1


def test_everything_is_on_disk_after_each_write(tmp_path: Path) -> None:
    """A killed process loses nothing: another connection sees the write while the first is still open."""
    first = Store(tmp_path / "db")
    first.create("pods", thing("a"))
    first.create("pods", thing("b"))
    first.delete("pods", "default", "a")
    second = Store(tmp_path / "db")
    assert [stored.name for stored in second.list("pods")] == ["b"]
    assert second.version == first.version
    second.close()
    first.close()


def test_history_is_bounded() -> None:
    async def scenario() -> None:
        store = Store(history=3)
        versions = [store.create("pods", thing(f"p{number}")).version for number in range(5)]
        assert len(await store.watch("pods", since=versions[1]).batch()) == 3
        with pytest.raises(ApiError) as refused:
            store.watch("pods", since=versions[0])
        assert refused.value.code == 410
        store.compact()
        assert await store.watch("pods", since=store.version).batch(0.01) == []

    asyncio.run(scenario())


def test_a_slow_watcher_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "SLOW_WATCHER", 3)

    async def scenario() -> None:
        store = Store()
        watch = store.watch("pods", since=store.version)
        for number in range(5):
            store.create("pods", thing(f"p{number}"))
        assert watch.closed

    asyncio.run(scenario())


def test_events_from_another_thread_wake_the_watcher() -> None:
    async def scenario() -> None:
        store = Store()
        watch = store.watch("pods", since=store.version)
        waiting = asyncio.create_task(watch.batch(10))
        await asyncio.sleep(0)
        writer = threading.Thread(target=store.create, args=("pods", thing("a")))
        writer.start()
        assert [event.stored.name for event in await waiting] == ["a"]
        writer.join()
        watch.close()

    asyncio.run(scenario())
