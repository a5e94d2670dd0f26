"""Streamed answers: watches and pod logs."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import httpx
import orjson

from sandbox.kubernetes import status, tables
from sandbox.kubernetes.kinds import Kind
from sandbox.kubernetes.listing import as_stored, check_version, served
from sandbox.kubernetes.registry import Registry, matcher
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.store import Event, Object, Stored, Watch

if TYPE_CHECKING:
    from sandbox.kubernetes.app import Call

BOOKMARK_SECONDS = 5
"""Time between two bookmarks of an idle watch that asked for bookmarks; the last one comes before the watch ends."""

LOG_ANNOTATION = "sandbox.agentplane.dev/log"
"""Annotation with the place of a pod's log: a URL of a kubelet, or the path of a file."""


async def _disconnected(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


class _Encoder:
    """Encodes events as the lines of one watch."""

    def __init__(self, call: Call, kind: Kind, namespace: str) -> None:
        self._kind = kind
        self._namespace = namespace
        labels, fields = call.query.get("labelSelector", ""), call.query.get("fieldSelector", "")
        self._matches: Callable[[Object], bool] | None = (
            matcher(kind.resource, labels, fields) if labels or fields else None
        )
        self._table = call.as_table
        self._partial = call.as_metadata
        self._include = call.query.get("includeObject", "Metadata")
        self._headed = True

    def encode(self, events: Iterable[Event]) -> bytes:
        lines = []
        for event in events:
            if self._namespace and event.stored.namespace != self._namespace:
                continue
            kind, state = self._seen(event)
            if kind:
                lines.append(self._line(kind, state, event.version))
        return b"".join(lines)

    def _seen(self, event: Event) -> tuple[str, Stored]:
        """Return event type and state: an object that starts to match is ADDED, one that ceases to match DELETED."""
        if self._matches is None:
            return event.type, event.stored
        before = event.previous is not None and self._matches(event.previous.object)
        if event.type == "DELETED":
            return ("DELETED" if before else ""), event.stored
        after = self._matches(event.stored.object)
        if after:
            return ("MODIFIED" if before else "ADDED"), event.stored
        return ("DELETED" if before else ""), event.previous or event.stored

    def _line(self, kind: str, state: Stored, version: int) -> bytes:
        plain = not self._table and not self._partial and as_stored(self._kind, state)
        if plain and state.version == version:
            return b'{"type":"%s","object":%s}\n' % (kind.encode(), state.raw)
        obj = served(self._kind, state)
        if state.version != version:
            obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
        return self.line(kind, obj)

    def line(self, kind: str, obj: Object) -> bytes:
        shown: Any = obj
        if self._table and kind != "ERROR":
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            shown = tables.table(self._kind, [obj], metadata, self._include, self._headed)
            self._headed = False
        elif self._partial and kind != "ERROR":
            shown = tables.partial(obj)
        return orjson.dumps({"type": kind, "object": shown}) + b"\n"

    def bookmark(self, version: int, initial_done: bool = False) -> bytes:
        metadata: Object = {"resourceVersion": str(version)}
        if initial_done:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        bookmark = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": metadata}
        return self.line("BOOKMARK", bookmark)


async def stream_watch(call: Call, registry: Registry, kind: Kind, namespace: str, stopping: asyncio.Event) -> None:
    """Stream events until the client disconnects, `timeoutSeconds` pass or the server stops. Raises ApiError 400."""
    query = call.query
    encoder = _Encoder(call, kind, namespace)
    text = query.get("resourceVersion", "")
    if text and not text.isdigit():
        raise status.bad_request(
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    initial = call.flag("sendInitialEvents") if "sendInitialEvents" in query else None
    since = None if initial or text in ("", "0") else int(text)
    if initial is False and since is None:
        since = registry.store.version
    timeout = float(query.get("timeoutSeconds") or random.uniform(1800, 3600))
    try:
        if initial:
            check_version(text, registry.store.version)
        watch = registry.watch(kind.resource, since=since)
    except ApiError as error:
        await call.start(content_type="application/json;stream=watch" if call.as_table else "application/json")
        await call.chunk(encoder.line("ERROR", error.body()), more=False)
        return
    gone = asyncio.create_task(_disconnected(call))
    stop = asyncio.create_task(stopping.wait())
    for task in (gone, stop):
        task.add_done_callback(lambda _: watch.close())
    try:
        await call.start()
        await call.chunk(b"")
        bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        async for chunk in _lines(watch, encoder, registry, timeout, bookmarks, bool(initial) and bookmarks):
            await call.chunk(chunk)
        if not gone.done():
            await call.chunk(b"", more=False)
    finally:
        watch.close()
        for task in (gone, stop):
            task.cancel()


async def _lines(
    watch: Watch, encoder: _Encoder, registry: Registry, timeout: float, bookmarks: bool, initial: bool
) -> AsyncIterator[bytes]:
    """Yield the lines of a watch; `initial`: a bookmark separates the existing objects from the changes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    if initial:
        present = await watch.batch(0)
        yield encoder.encode(present) + encoder.bookmark(registry.store.version, initial_done=True)
    while not watch.closed:
        left = deadline - loop.time()
        if left <= 0:
            break
        events = await watch.batch(min(left, BOOKMARK_SECONDS) if bookmarks else left)
        lines = encoder.encode(events)
        if bookmarks and not events and not watch.closed:
            lines = encoder.bookmark(registry.store.version)
        if lines:
            yield lines


# logs


async def stream_log(call: Call, pod: Object) -> None:
    """Forward a pod's log from its kubelet, with the options of the request. Raises ApiError 400 when there is none."""
    metadata = pod["metadata"]
    container = call.query.get("container") or pod["spec"]["containers"][0]["name"]
    if container not in [
        at["name"] for field in ("containers", "initContainers") for at in pod["spec"].get(field) or ()
    ]:
        raise status.bad_request(f"container {container} is not valid for pod {metadata['name']}")
    source = (metadata.get("annotations") or {}).get(LOG_ANNOTATION)
    if not source:
        words = f'container "{container}" in pod "{metadata["name"]}" is waiting to start: ContainerCreating'
        raise status.bad_request(words)
    if urlsplit(source).scheme in ("http", "https"):
        await _forward(call, source, container)
    else:
        await _tail(call, Path(source))


async def _forward(call: Call, url: str, container: str) -> None:
    options = urlencode({**call.query, "container": container})
    async with httpx.AsyncClient(timeout=httpx.Timeout(10, read=None)) as client:
        try:
            async with client.stream("GET", f"{url}{'&' if '?' in url else '?'}{options}") as response:
                gone = asyncio.create_task(_disconnected(call))
                serving = asyncio.current_task()
                assert serving is not None
                gone.add_done_callback(lambda done: None if done.cancelled() else serving.cancel())
                await call.start(response.status_code, response.headers.get("content-type", "text/plain"))
                async for chunk in response.aiter_raw():
                    await call.chunk(chunk)
                gone.cancel()
                await call.chunk(b"", more=False)
        except httpx.HTTPError as error:
            if not call.started:
                words = f"the kubelet's log at {url} cannot be read: {error}"
                raise ApiError(500, "InternalError", words) from error


async def _tail(call: Call, path: Path) -> None:
    if not path.is_file():
        raise ApiError(404, "NotFound", f"the log file {path} does not exist")
    with path.open("rb") as file:
        lines = file.read().splitlines(keepends=True)
        count = call.query.get("tailLines", "")
        await call.start(content_type="text/plain")
        await call.chunk(b"".join(lines[-int(count) :] if count.isdigit() and int(count) else lines))
        gone = asyncio.create_task(_disconnected(call))
        while call.flag("follow") and not gone.done():
            if chunk := file.read():
                await call.chunk(chunk)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(gone), 0.2)
        if not gone.done():
            gone.cancel()
            await call.chunk(b"", more=False)
