"""Scheduler and kubelet: binds Pods to this node and runs one worker per Pod."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx

from sandbox.kubelet.api import CORE, ApiError
from sandbox.kubelet.informer import Informer
from sandbox.kubelet.node import Node
from sandbox.kubelet.pod import PodWorker

log = logging.getLogger(__name__)

BIND_RETRY_SECONDS = 0.5


class Kubelet:
    """Binds and runs the Pods that the informer reports."""

    def __init__(self, node: Node, pods: Informer) -> None:
        self._node = node
        self._pods = pods
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        pods.listen(self._pod_changed)

    async def close(self) -> None:
        """Stop all workers. `Runtime.close` ends the processes of the containers."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def worker(self, namespace: str, name: str) -> PodWorker | None:
        """Return the worker of a Pod, None when this node does not run the Pod."""
        pod = self._pods.get(namespace, name)
        return self._workers.get(pod["metadata"]["uid"]) if pod else None

    def _pod_changed(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        if after is None:
            if before is not None and (worker := self._workers.get(before["metadata"]["uid"])):
                worker.gone()
        elif not after["spec"].get("nodeName"):
            if before is None and not after["metadata"].get("deletionTimestamp"):
                self._spawn(self._bind(after))
        elif after["spec"]["nodeName"] == self._node.name:
            self._attend(after)

    def _attend(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is None:
            deleting = pod["metadata"].get("deletionTimestamp")
            if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") and not deleting:
                return
            worker = self._workers[uid] = PodWorker(self._node, pod)
            self._spawn(self._run(worker))
        worker.update(pod)

    async def _run(self, worker: PodWorker) -> None:
        await worker.run()
        # Keep the worker while the informer has the Pod: another event about the Pod would start a second worker.
        while self._is_listed(worker.pod["metadata"]):
            await asyncio.sleep(0.05)
        del self._workers[worker.uid]

    def _is_listed(self, meta: dict[str, Any]) -> bool:
        pod = self._pods.get(meta["namespace"], meta["name"])
        return pod is not None and bool(pod["metadata"]["uid"] == meta["uid"])

    async def _bind(self, pod: dict[str, Any]) -> None:
        meta = pod["metadata"]
        path = f"{CORE}/namespaces/{meta['namespace']}/pods/{meta['name']}/binding"
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node.name},
        }
        while True:
            try:
                await self._node.api.create(path, body)
            except ApiError as error:
                if error.code in (404, 409):
                    return
                log.warning("%s/%s: cannot be bound: %s", meta["namespace"], meta["name"], error)
            except httpx.HTTPError as error:
                log.info("%s/%s: cannot be bound yet: %s", meta["namespace"], meta["name"], type(error).__name__)
            else:
                message = f"Successfully assigned {meta['namespace']}/{meta['name']} to {self._node.name}"
                self._node.events.record(pod, "Normal", "Scheduled", message)
                return
            await asyncio.sleep(BIND_RETRY_SECONDS)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an unexpected error ended the work on a pod", exc_info=error)
