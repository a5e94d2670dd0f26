"""The life of one container: pull, configure, run, probe, end, wait, again.

    ErrImagePull ──▶ ImagePullBackOff ─┐
         ▲                             ▼ image found
         └──────── pull ──────▶ configure ──▶ run ──▶ ended ──▶ restart policy says no: done
                    ▲               │  ▲                 │
                    │               ▼  │ again           ▼
                    │   CreateContainerConfigError   CrashLoopBackOff (not after the first end)
                    └────────────────────────────────────┘

The supervisor changes a ContainerState and calls `changed`; it does not write the Pod's status. `stop` ends it through
an event, not through cancellation: a cancellation between the start of a process and the note of it would lose the
process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from sandbox.kubelet import environment, execution, images, probes, volumes
from sandbox.kubelet.api import ApiError
from sandbox.kubelet.environment import ContainerConfigError, api_server_variables
from sandbox.kubelet.images import Image, ImageError
from sandbox.kubelet.node import Node
from sandbox.kubelet.runtime import Execution, Exit, Process, last_lines
from sandbox.kubelet.status import ContainerState, running, terminated, waiting

log = logging.getLogger(__name__)

# The longest back-off is this many times the first one: in a kubelet 10 s and 5 minutes.
BACKOFF_LIMIT = 30
# After a run longer than this many first back-offs, the back-off starts from its first value again.
BACKOFF_RESET = 60
CONFIG_RETRY_SECONDS = 1.0
# Exit code of a container whose command cannot be executed.
START_ERROR = 128


class ContainerSupervisor:
    """Runs one container until it is done by its restart policy, or until `stop` is called."""

    def __init__(
        self, node: Node, pod: dict[str, Any], spec: dict[str, Any], state: ContainerState, local_port: int,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        """`changed` is called after each change of `state`; the container listens on `local_port`."""
        self.state = state
        # Port inside the container → local port; empty until the container starts.
        self.ports: dict[int, int] = {}
        self._node, self._pod, self._spec = node, pod, spec
        self._local_port = local_port
        self._changed = changed
        self._stopping = asyncio.Event()
        self._grace = 0.0
        self._process: Process | None = None
        self._pauses = _pauses(node.timing.backoff)

    def stop(self, grace: float) -> None:
        """End the container for good: SIGTERM, SIGKILL after `grace` seconds. A second call with 0 kills at once."""
        if self._stopping.is_set() and not grace and self._process is not None:
            self._process.kill()
        self._grace = grace
        self._stopping.set()

    async def run(self) -> None:
        """Run the container until its restart policy ends it or `stop` is called."""
        while not self._stopping.is_set():
            image = await self._pull()
            run = await self._configure(image) if image else None
            if image is None or run is None:
                return
            if image.folder is None:
                return await self._stand_in(image)
            await self._run_once(image.folder, run)
            if not self._restarts() or not await self._back_off():
                return

    async def _pull(self) -> Image | None:
        reference = self._spec["image"]
        pauses = _pauses(self._node.timing.backoff)
        next(pauses)
        while True:
            try:
                image = self._resolve(reference)
            except ImageError as error:
                self._event("Warning", "Failed", f"Failed to pull image: {error}")
                self._wait_because(error.reason, str(error))
                if error.reason == "ErrImagePull":
                    if not await self._pause(min(0.5, self._node.timing.backoff)):
                        return None
                    message = f'Back-off pulling image "{reference}": {error.reason}: {error}'
                    self._event("Normal", "BackOff", f'Back-off pulling image "{reference}"')
                    self._wait_because("ImagePullBackOff", message)
                if not await self._pause(next(pauses)):
                    return None
            else:
                self._event("Normal", "Pulled", f'Container image "{reference}" already present on machine')
                self.state.image_id = image.image_id
                return image

    def _resolve(self, reference: str) -> Image:
        try:
            image = images.resolve(reference, self._node.images)
        except ImageError as error:
            # Init containers with other images prepare things that a stand-in or an in-memory server does not need.
            if self.state.init and error.reason == "ErrImagePull" and not _is_local(reference):
                return Image(reference=reference, image_id=reference, folder=None)
            raise
        command = list(self._spec.get("command") or ())
        # An Agent Server as init container would never end. A queue worker has no work: the Agent Server does it.
        if images.is_queue_worker(command) or (self.state.init and not command):
            return Image(reference=reference, image_id=image.image_id, folder=None)
        return image

    async def _configure(self, image: Image) -> Execution | None:
        while True:
            try:
                return await self._execution(image)
            except ContainerConfigError as error:
                self._event("Warning", "Failed", f"Error: {error}")
                self._wait_because("CreateContainerConfigError", str(error))
            except (ApiError, httpx.HTTPError) as error:
                log.info("%s: cannot read its configuration yet: %s", self._title, error)
            if not await self._pause(CONFIG_RETRY_SECONDS):
                return None

    async def _execution(self, image: Image) -> Execution:
        env = await environment.resolve(self._pod, self._spec, self._node.lookup)
        home = self._node.runtime.home(self._pod, self.state.name)
        if image.program is None:
            return execution.of_agent_server(self._spec, env, home=home, port=self._local_port)
        mounts = await volumes.mount(self._node, self._pod, self._spec)
        env = {**api_server_variables(self._node.api.server), **env}
        return execution.of_program(image.program, self._spec, env, home=home, port=self._local_port, mounts=mounts)

    async def _stand_in(self, image: Image) -> None:
        self.state.container_id = f"sandbox://stand-in-{self._pod['metadata']['uid']}-{self.state.name}"
        started = datetime.now(UTC)
        if self.state.init:
            self._ended(Exit(code=0, signal=None, finished_at=started), started, "")
            return
        log.info("%s: reported as running without a process (a stand-in for %s)", self._title, image.reference)
        self.state.state, self.state.started, self.state.ready = running(started), True, True
        self._event("Normal", "Started", f"Started container {self.state.name} (a stand-in: nothing runs)")
        self._changed()
        await self._stopping.wait()
        self._ended(Exit(code=0, signal=None, finished_at=datetime.now(UTC)), started, "")

    async def _run_once(self, folder: Path, run: Execution) -> None:
        state = self.state
        self.ports = run.ports
        state.container_id = f"sandbox://{self._pod['metadata']['uid']}-{state.name}-{state.restarts}"
        try:
            process = await self._node.runtime.start(folder=folder, pod=self._pod, run=run, attempt=state.restarts)
        except OSError as error:
            message = f"failed to start container {state.name}: {error}"
            self._event("Warning", "Failed", f"Error: {message}")
            now = datetime.now(UTC)
            self._ended(Exit(code=START_ERROR, signal=None, finished_at=now), now, message, reason="StartError")
            return
        self._process = process
        where = ", ".join(map(str, run.ports.values())) or "of its own choice"
        log.info("%s: started as process %d, port %s", self._title, process.pid, where)
        state.state = running(process.started_at)
        state.started = "startupProbe" not in self._spec
        state.ready = state.started and "readinessProbe" not in self._spec
        self._event("Normal", "Started", f"Started container {state.name}")
        self._changed()
        ended = await self._attend(process, run)
        self._ended(ended, process.started_at, last_lines(process.log) if ended.code else "")
        log.info("%s: ended with code %d", self._title, ended.code)

    async def _attend(self, process: Process, run: Execution) -> Exit:
        """Probe the process until it ends by itself, fails a probe or is stopped; return how it ended."""
        unhealthy = asyncio.Event()
        watching = asyncio.create_task(self._probe(run, unhealthy))
        watching.add_done_callback(self._probing_failed)
        stopping = asyncio.create_task(self._stopping.wait())
        failing = asyncio.create_task(unhealthy.wait())
        try:
            waits: set[asyncio.Future[Any]] = {process.exited, stopping, failing}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, stopping, failing):
                task.cancel()
        if process.exited.done():
            return process.exited.result()
        self.state.ready = False
        self._changed()
        if self._stopping.is_set():
            return await process.stop(self._grace)
        self._event("Normal", "Killing", f"Container {self.state.name} failed its probe, will be restarted")
        return await process.stop(float(self._pod["spec"].get("terminationGracePeriodSeconds") or 0))

    async def _probe(self, run: Execution, unhealthy: asyncio.Event) -> None:
        home = self._node.runtime.home(self._pod, self.state.name)
        target = probes.Target(container=run.container, env=run.env, ports=run.ports, http=self._node.http, cwd=home)
        cap = self._node.timing.probe_cap
        kinds: dict[str, Callable[[bool, str], None]] = {
            "readinessProbe": lambda healthy, why: self._readiness(healthy, why),
            "livenessProbe": lambda healthy, why: self._liveness(healthy, why, unhealthy),
        }
        async with asyncio.TaskGroup() as group:
            if probe := run.container.get("startupProbe"):
                started = asyncio.Event()

                def on_startup(healthy: bool, why: str) -> None:
                    if healthy:
                        started.set()
                    else:
                        self._liveness(False, why, unhealthy, "Startup")

                probing = group.create_task(probes.watch(probe, target, cap, on_startup))
                await started.wait()
                probing.cancel()
                self.state.started = True
                self.state.ready = "readinessProbe" not in self._spec
                self._changed()
            for name, on_result in kinds.items():
                if probe := run.container.get(name):
                    group.create_task(probes.watch(probe, target, cap, on_result))

    def _probing_failed(self, watching: asyncio.Task[None]) -> None:
        if not watching.cancelled() and (error := watching.exception()) is not None:
            log.error("%s: probing failed", self._title, exc_info=error)

    def _readiness(self, healthy: bool, why: str) -> None:
        if not healthy:
            self._event("Warning", "Unhealthy", f"Readiness probe failed: {why}")
        if self.state.ready != healthy:
            self.state.ready = healthy
            self._changed()

    def _liveness(self, healthy: bool, why: str, unhealthy: asyncio.Event, word: str = "Liveness") -> None:
        if not healthy:
            self._event("Warning", "Unhealthy", f"{word} probe failed: {why}")
            unhealthy.set()

    def _ended(self, ended: Exit, started: datetime, message: str, reason: str | None = None) -> None:
        self.state.ready = self.state.started = False
        self.state.state = terminated(
            code=ended.code, signal=ended.signal, started_at=started, finished_at=ended.finished_at,
            container_id=self.state.container_id, message=message, reason=reason,
        )  # fmt: skip
        if (ended.finished_at - started).total_seconds() > BACKOFF_RESET * self._node.timing.backoff:
            self._pauses = _pauses(self._node.timing.backoff)
        self._changed()

    def _restarts(self) -> bool:
        if self._stopping.is_set():
            return False
        policy = self._pod["spec"].get("restartPolicy") or "Always"
        code = self.state.state["terminated"]["exitCode"]
        # An init container that succeeded is done under every restart policy.
        return bool(code) and policy != "Never" if self.state.init or policy == "OnFailure" else policy == "Always"

    async def _back_off(self) -> bool:
        """Wait before the next start; return False if the container is stopped meanwhile."""
        pause = next(self._pauses)
        state, meta = self.state, self._pod["metadata"]
        state.last = state.state
        if pause:
            self._event("Warning", "BackOff", f"Back-off restarting failed container {state.name}")
            self._wait_because(
                "CrashLoopBackOff",
                f"back-off {pause:g}s restarting failed container={state.name} "
                f"pod={meta['name']}_{meta['namespace']}({meta['uid']})",
            )
        if not await self._pause(pause):
            state.state = state.last
            return False
        state.restarts += 1
        return True

    def _wait_because(self, reason: str, message: str) -> None:
        self.state.state = waiting(reason, message)
        self.state.ready = self.state.started = False
        self._changed()

    async def _pause(self, seconds: float) -> bool:
        """Wait; return False as soon as `stop` is called."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def _event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self._node.events.record(self._pod, kind, reason, message, self.state.name)

    @property
    def _title(self) -> str:
        meta = self._pod["metadata"]
        return f"{meta['namespace']}/{meta['name']}/{self.state.name}"


def _pauses(first: float) -> Iterator[float]:
    """Yield the seconds before the 1st, 2nd, … restart: 0, `first`, then twice as long each time, up to the limit."""
    yield 0.0
    pause = first
    while True:
        yield pause
        pause = min(pause * 2, first * BACKOFF_LIMIT)


def _is_local(reference: str) -> bool:
    return reference.startswith(f"{images.LOCAL_REGISTRY}/")
