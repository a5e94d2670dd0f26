"""The container runtime: one container is one process group with its own folder and log file.

No container outlives this program, even if the program is killed. A small shell (the guard) leads every process group.
It waits for the end of a pipe whose writing end only this program holds, and then kills its group. The container's
process joins the group before it executes anything. Every process is therefore guarded from its start, including the
children of the container's process. Linux' parent-death signal would not do: it follows a thread, not the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sandbox.kubelet.environment import expand
from sandbox.ports import LOOPBACK

GUARD = ("/bin/sh", "-c", "read _; kill -KILL 0")
# Files that a container's copy of its image leaves out.
IGNORED = shutil.ignore_patterns(".langgraph_api", "__pycache__")
# Port of an Agent Server whose environment has no PORT.
DEFAULT_PORT = 8000
MESSAGE_LINES = 10
MESSAGE_BYTES = 2048
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def image_environment(home: Path) -> dict[str, str]:
    """Return the environment that an image would set (ENV in a Dockerfile); the Pod spec's environment overrides it."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        # Printed lines reach the log at once, not when a buffer is full.
        "PYTHONUNBUFFERED": "1",
        "LOG_COLOR": "false",
        # As in production, Agent Servers send no version check and no analytics when they start.
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    }


def listening_port(env: dict[str, str]) -> int:
    """The port inside the container on which an Agent Server with this environment listens."""
    port = env.get("PORT", "")
    return int(port) if port.isdigit() else DEFAULT_PORT


def command_line(container: dict[str, Any], env: dict[str, str], port: int) -> list[str]:
    """Return the command of a container: that of the Pod spec, else an Agent Server on local `port`."""
    given = [*(container.get("command") or ()), *(container.get("args") or ())]
    if container.get("command"):
        return [expand(part, env) for part in given]
    server = Path(sys.executable).parent / "langgraph"
    start = [str(server)] if server.exists() else [sys.executable, "-m", "langgraph_cli"]
    return [
        *start,
        "dev",
        "--no-browser",
        "--no-reload",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        # `langgraph dev` ignores N_JOBS_PER_WORKER; without this option, it runs one job at a time.
        "--n-jobs-per-worker",
        "10",
    ]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a container runs on this machine."""

    # The container's spec, with paths of this machine in its probes.
    container: dict[str, Any]
    command: list[str]
    # The complete environment of the process.
    env: dict[str, str]
    # Port inside the container → local port.
    ports: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a container's process ended."""

    # Exit code as container runtimes report it: 128 + n when signal n ended the process.
    code: int
    signal: int | None
    finished_at: datetime


class Runtime:
    """Starts containers. The program has one instance; `close` ends all containers."""

    def __init__(self, state: Path) -> None:
        self._folders = state / "pods"
        self._volumes = state / "volumes"
        self._claims = state / "claims"
        self._logs = state / "logs"
        # Folders of an earlier run of this program; its processes ended with it.
        shutil.rmtree(self._folders, ignore_errors=True)
        self._folders.mkdir(parents=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._lifeline, self._held = os.pipe()
        self._running: set[Process] = set()

    def home(self, pod: dict[str, Any], container: str) -> Path:
        """Return the folder of a container's image copy: its working directory, unless the Pod spec names another."""
        uid: str = pod["metadata"]["uid"]
        return self._folders / uid / container

    def volume(self, pod: dict[str, Any], name: str) -> Path:
        """Return the folder of a volume that is deleted with its pod."""
        return _created(self._volumes / pod["metadata"]["uid"] / name)

    def claim(self, namespace: str, name: str) -> Path:
        """Return the folder of a PersistentVolumeClaim, which outlives pods."""
        return _created(self._claims / namespace / name)

    async def start(self, *, folder: Path, pod: dict[str, Any], run: Execution, attempt: int) -> Process:
        """Run a container with a copy of the image `folder`. Raises OSError when its command cannot be executed."""
        work = self.home(pod, run.container["name"])
        await asyncio.to_thread(_copy, folder, work)
        log = self.log_path(pod, run.container["name"], attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = Process(log)
        cwd = Path(run.container["workingDir"]) if run.container.get("workingDir") else work
        await process.start(run.command, run.env, cwd if cwd.is_dir() else work, self._lifeline)
        self._running.add(process)
        process.exited.add_done_callback(lambda _: self._running.discard(process))
        return process

    def log_path(self, pod: dict[str, Any], container: str, attempt: int) -> Path:
        """Return the log file of one run of a container; `attempt` counts from 0."""
        meta = pod["metadata"]
        return self._logs / f"{meta['namespace']}_{meta['name']}_{meta['uid']}" / container / f"{attempt}.log"

    def forget(self, pod: dict[str, Any]) -> None:
        """Delete a pod's folders. Its logs stay, so that people can read them later."""
        for folder in (self._folders, self._volumes):
            shutil.rmtree(folder / pod["metadata"]["uid"], ignore_errors=True)

    async def close(self, grace: float) -> None:
        """End every container: SIGTERM, then SIGKILL after `grace` seconds."""
        await asyncio.gather(*(process.stop(grace) for process in list(self._running)))
        os.close(self._held)
        os.close(self._lifeline)


class Process:
    """A started container process and its guard."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.started_at = datetime.now(UTC)
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._child: asyncio.subprocess.Process | None = None
        self._guard: asyncio.subprocess.Process | None = None
        self._reaper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError when the process was not started."""
        if self._child is None:
            raise RuntimeError("the container was not started")
        return self._child.pid

    async def start(self, command: list[str], env: dict[str, str], cwd: Path, lifeline: int) -> None:
        """Start guard and process. Raises OSError when the command cannot be executed."""
        null = asyncio.subprocess.DEVNULL
        self._guard = await asyncio.create_subprocess_exec(
            *GUARD, stdin=lifeline, stdout=null, stderr=null, process_group=0
        )
        executable = shutil.which(command[0], path=env.get("PATH")) or command[0]
        try:
            with self.log.open("wb") as log:
                self._child = await asyncio.create_subprocess_exec(
                    executable, *command[1:], stdin=null, stdout=log, stderr=log, env=env, cwd=cwd,
                    process_group=self._guard.pid,
                )  # fmt: skip
        except BaseException:
            self._kill_group()
            await self._guard.wait()
            raise
        self._reaper = asyncio.create_task(self._reap(self._child))

    def terminate(self) -> None:
        """Send SIGTERM to the container's main process."""
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()

    def kill(self) -> None:
        """Send SIGKILL to all processes of the container."""
        self._kill_group()

    async def stop(self, grace: float) -> Exit:
        """Send SIGTERM, then SIGKILL after `grace` seconds; return how the process ended."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self.exited), max(grace, 0.0))
        self._kill_group()
        return await asyncio.shield(self.exited)

    async def _reap(self, child: asyncio.subprocess.Process) -> None:
        status = await child.wait()
        # As in a container, the other processes end with the main process.
        self._kill_group()
        if self._guard is not None:
            await self._guard.wait()
        number = -status if status < 0 else None
        code = 128 + number if number is not None else status
        self.exited.set_result(Exit(code=code, signal=number, finished_at=datetime.now(UTC)))

    def _kill_group(self) -> None:
        # `_reap` waits for the guard only after this, so no other process group can have the guard's number.
        if self._guard is not None and self._guard.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)


def last_lines(log: Path, lines: int = MESSAGE_LINES, limit: int = MESSAGE_BYTES) -> str:
    """Return the end of a log as a termination message: at most `lines` lines and `limit` bytes, without colours."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    kept = [line.rstrip() for line in _ESCAPES.sub("", text).splitlines() if line.strip()][-lines:]
    return "\n".join(kept).encode()[-limit:].decode(errors="ignore")


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _copy(image: Path, work: Path) -> None:
    # A restarted container starts with a new copy of its image, without the files that the former run wrote.
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(image, work, ignore=IGNORED)
