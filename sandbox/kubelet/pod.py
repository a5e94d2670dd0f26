"""The life of one Pod on this node, from its binding to its deletion.

A deletion loses no request. The ingress sends no request to a Pod that has a deletionTimestamp. The worker then drains
the Pod: it waits a moment, and for the requests in flight. Only then it sends SIGTERM, and SIGKILL at the end of the
grace period, and deletes the Pod object.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import Any

import httpx

from sandbox.kubelet.api import CORE, ApiError
from sandbox.kubelet.container import ContainerSupervisor
from sandbox.kubelet.node import Node
from sandbox.kubelet.status import ContainerState, pod_status, terminated
from sandbox.ports import free_port, release

log = logging.getLogger(__name__)

PREFIX = "sandbox.agentplane.dev"
# URL of the logs of the pod's first container; append `/<container>` for another container.
LOG_ANNOTATION = f"{PREFIX}/log"
# Local ports of the containers: `<container>/<port in the container>=<local port>`, comma-separated.
PORTS_ANNOTATION = f"{PREFIX}/ports"

DEFAULT_GRACE = 30
# Exit code of a container whose process ended with an earlier run of this program.
LOST_CODE = 137


def local_port(pod: dict[str, Any], port: int) -> int | None:
    """Return the local port for a container port of `pod`, None when no container listens on that port (yet)."""
    annotation: str = (pod["metadata"].get("annotations") or {}).get(PORTS_ANNOTATION, "")
    for entry in filter(None, annotation.split(",")):
        where, _, local = entry.partition("=")
        if where.rpartition("/")[2] == str(port):
            return int(local)
    return None


class PodWorker:
    """Runs one Pod; `run` returns when the Pod object is deleted."""

    def __init__(self, node: Node, pod: dict[str, Any]) -> None:
        self.pod = pod
        self._node = node
        self._path = f"{CORE}/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        self._started_at = datetime.now(UTC)
        self._status: dict[str, Any] = pod.get("status") or {}
        self._annotations = pod["metadata"].get("annotations") or {}
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()
        self._ending = asyncio.Event()
        self._gone = asyncio.Event()
        self._ports: list[int] = []
        self._supervisors = [
            *(self._supervise(spec, init=True) for spec in pod["spec"].get("initContainers") or ()),
            *(self._supervise(spec, init=False) for spec in pod["spec"]["containers"]),
        ]

    @property
    def uid(self) -> str:
        uid: str = self.pod["metadata"]["uid"]
        return uid

    def update(self, pod: dict[str, Any]) -> None:
        """Replace the worker's copy of the Pod; a deletionTimestamp ends the Pod."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._ending.set()

    def gone(self) -> None:
        """Handle the deletion of the Pod object, by a client that forced it or by this worker: kill all containers."""
        self._gone.set()
        self._ending.set()
        for supervisor in self._supervisors:
            supervisor.stop(0)

    async def run(self) -> None:
        """Run the containers until the Pod object is deleted."""
        publishing = asyncio.create_task(self._publish())
        working = asyncio.create_task(self._work())
        working.add_done_callback(self._work_failed)
        try:
            self._dirty.set()
            await self._ending.wait()
            await self._end(working)
        finally:
            # `working` is unfinished only when the node itself ends; the runtime then ends the processes.
            working.cancel()
            publishing.cancel()
            await asyncio.gather(working, publishing, return_exceptions=True)
            for port in self._ports:
                release(port)
            self._node.runtime.forget(self.pod)
            self._node.events.forget(self.uid)

    def container_names(self) -> list[str]:
        return [one.state.name for one in self._supervisors]

    def log_attempt(self, container: str, *, previous: bool) -> int | None:
        """Return the run (from 0) that `kubectl logs [--previous]` shows; None for no such run or container."""
        state = next((one.state for one in self._supervisors if one.state.name == container), None)
        if state is None or (previous and not state.last):
            return None
        # While a container waits for its next start, its last run is both the previous and the latest run.
        return state.restarts - 1 if previous and state.is_running else state.restarts

    def is_running(self, container: str) -> bool:
        return any(one.state.is_running for one in self._supervisors if one.state.name == container)

    def _supervise(self, spec: dict[str, Any], *, init: bool) -> ContainerSupervisor:
        state = ContainerState(name=spec["name"], image=spec["image"], init=init)
        self._restore(state)
        port = free_port()
        self._ports.append(port)
        return ContainerSupervisor(self._node, self.pod, spec, state, port, self._dirty.set)

    def _restore(self, state: ContainerState) -> None:
        """Take restart count and last state from the Pod's status, which an earlier run of this program wrote."""
        field = "initContainerStatuses" if state.init else "containerStatuses"
        before = next((one for one in self._status.get(field) or () if one["name"] == state.name), None)
        if before is None:
            return
        was: dict[str, Any] = before.get("state") or {}
        if "running" in was:
            started = datetime.fromisoformat(was["running"]["startedAt"])
            state.last = terminated(
                code=LOST_CODE, started_at=started, finished_at=self._started_at,
                container_id=before.get("containerID") or "", message="the node was restarted",
            )  # fmt: skip
        else:
            state.last = was if "terminated" in was else before.get("lastState") or {}
        state.restarts = before.get("restartCount", 0) + (1 if state.last else 0)

    async def _work(self) -> None:
        for supervisor in self._supervisors:
            if supervisor.state.init and not supervisor.state.succeeded:
                await supervisor.run()
                if not supervisor.state.succeeded:
                    return
        await asyncio.gather(*(one.run() for one in self._supervisors if not one.state.init))

    def _work_failed(self, working: asyncio.Task[None]) -> None:
        if not working.cancelled() and (error := working.exception()) is not None:
            log.error("%s: cannot be run", self._path, exc_info=error)

    async def _end(self, working: asyncio.Task[None]) -> None:
        grace = self.pod["metadata"].get("deletionGracePeriodSeconds")
        deadline = time.monotonic() + float(DEFAULT_GRACE if grace is None else grace)
        for supervisor in self._supervisors:
            if supervisor.state.is_running:
                name = supervisor.state.name
                self._node.events.record(self.pod, "Normal", "Killing", f"Stopping container {name}", name)
        if any(supervisor.ports and supervisor.state.is_running for supervisor in self._supervisors):
            await self._drain(deadline)
        for supervisor in self._supervisors:
            supervisor.stop(0 if self._gone.is_set() else max(deadline - time.monotonic(), 0))
        with contextlib.suppress(Exception):  # _work_failed logs it
            await working
        # Watches then deliver how the containers ended.
        with contextlib.suppress(ApiError, httpx.HTTPError):
            await self._write()
        await self._delete()

    async def _drain(self, deadline: float) -> None:
        drained = time.monotonic() + self._node.timing.drain
        while not self._gone.is_set() and time.monotonic() < deadline:
            if time.monotonic() >= drained and not self._node.in_flight(self.uid):
                return
            await asyncio.sleep(0.02)

    async def _delete(self) -> None:
        """Delete the Pod object, unless it is deleted already or another Pod has its name."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.uid},
        }
        while not self._gone.is_set():
            try:
                await self._node.api.delete(self._path, options)
            except ApiError as error:
                if error.code in (404, 409):
                    return
                log.warning("%s: cannot be deleted: %s", self._path, error)
            except httpx.HTTPError as error:
                log.info("%s: cannot be deleted yet: %s", self._path, type(error).__name__)
            else:
                # A finalizer may keep the object; the controller that set the finalizer removes it.
                return
            await asyncio.sleep(0.5)

    async def _publish(self) -> None:
        """Write annotations and status after every change, one write at a time, so that the newest state is last."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._write()
            except ApiError as error:
                if error.code != 404:
                    log.warning("%s: status refused: %s", self._path, error)
                    await asyncio.sleep(1)
                    self._dirty.set()
            except httpx.HTTPError as error:
                log.info("%s: status not written yet: %s", self._path, type(error).__name__)
                await asyncio.sleep(0.3)
                self._dirty.set()

    async def _write(self) -> None:
        async with self._writing:
            await self._write_changes()

    async def _write_changes(self) -> None:
        uid = {"uid": self.uid}
        annotations = {LOG_ANNOTATION: self._log_url(), PORTS_ANNOTATION: self._port_map()}
        if any(self._annotations.get(key) != value for key, value in annotations.items()):
            # Annotations come before the status, so that every ready pod has the annotation with its ports.
            await self._node.api.patch(self._path, {"metadata": {**uid, "annotations": annotations}})
            self._annotations = annotations
        states = [one.state for one in self._supervisors]
        status = pod_status({**self.pod, "status": self._status}, states, datetime.now(UTC), self._started_at)
        if status != self._status:
            await self._node.api.patch(f"{self._path}/status", {"metadata": uid, "status": _replacing(status)})
            self._status = status

    def _log_url(self) -> str:
        meta = self.pod["metadata"]
        return f"{self._node.logs_url}/logs/{meta['namespace']}/{meta['name']}"

    def _port_map(self) -> str:
        return ",".join(
            f"{one.state.name}/{port}={local}" for one in self._supervisors for port, local in one.ports.items()
        )


def _replacing(status: dict[str, Any]) -> dict[str, Any]:
    # A merge patch keeps the fields that it does not name. The API server may have set these two.
    return {"reason": None, "message": None, **status}
