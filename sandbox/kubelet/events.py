"""Kubernetes Events of Pods, which `kubectl describe pod` shows.

Events are best effort, as in Kubernetes: an Event that cannot be written is dropped. A repeated Event raises the count
of the first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import Any, Literal

import httpx

from sandbox.kubelet.api import CORE, Api, ApiError
from sandbox.kubelet.status import timestamp

COMPONENT = "kubelet"
# Characters; Kubernetes refuses longer messages.
MESSAGE_LIMIT = 1024


class EventRecorder:
    """Writes Events in the background, in their order."""

    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._source = {"component": COMPONENT, "host": node}
        self._queue: asyncio.Queue[tuple[dict[str, Any], str, str, str, str | None]] = asyncio.Queue(1000)
        # (pod uid, container, reason, message) → name of the Event and how often it happened.
        self._seen: dict[tuple[str, str | None, str, str], tuple[str, int]] = {}

    def record(
        self, pod: dict[str, Any], kind: Literal["Normal", "Warning"], reason: str, message: str,
        container: str | None = None,
    ) -> None:  # fmt: skip
        """Queue an Event about `pod`, or about one of its containers."""
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait((pod["metadata"], kind, reason, message[:MESSAGE_LIMIT], container))

    def forget(self, uid: str) -> None:
        """Drop the counts of a deleted pod's Events."""
        self._seen = {key: value for key, value in self._seen.items() if key[0] != uid}

    async def run(self) -> None:
        """Write queued Events until cancelled."""
        while True:
            entry = await self._queue.get()
            with contextlib.suppress(ApiError, httpx.HTTPError):
                await self._write(*entry)

    async def _write(self, meta: dict[str, Any], kind: str, reason: str, message: str, container: str | None) -> None:
        key = (meta["uid"], container, reason, message)
        path = f"{CORE}/namespaces/{meta['namespace']}/events"
        now = timestamp(datetime.now(UTC))
        name, count = self._seen.get(key, (f"{meta['name']}.{secrets.token_hex(8)}", 0))
        if count:
            await self._api.patch(f"{path}/{name}", {"count": count + 1, "lastTimestamp": now})
        else:
            await self._api.create(path, self._event(meta, kind, reason, message, container, name, now))
        self._seen[key] = (name, count + 1)

    def _event(
        self,
        meta: dict[str, Any],
        kind: str,
        reason: str,
        message: str,
        container: str | None,
        name: str,
        now: str,
    ) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
                **({"fieldPath": f"spec.containers{{{container}}}"} if container else {}),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": self._source,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
