"""Child processes that serve on a port: start one, wait until it answers, end it. None outlives this process.

A stack or a test run may be killed without a chance to clean up. Every server therefore has a leash: a small shell that
waits for the end of a pipe whose other end only this process holds. When this process no longer exists, the pipe ends
and the shell terminates the server. (Linux' parent-death signal would not do: it follows the thread that started the
child, not the process.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POLL_SECONDS = 0.02


class ServerStartError(RuntimeError):
    """A server did not start; the message has its name, the reason and the end of its log."""


class ServerProcess:
    """A server process with its log file. `ready` is called until it returns True; it must not raise."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, ready: Callable[[], bool],
                 env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:  # fmt: skip
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self._ready = ready
        self._env = dict(env) if env is not None else None
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server. Raises RuntimeError when it was not started."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the server, without waiting until it is ready."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                # Ctrl-C in a terminal then reaches only this process, which ends its servers in order.
                start_new_session=True,
            )
        self._leash = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -TERM {self._process.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait until the server is ready. Raises ServerStartError when it ends, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self._ready():
            if not self.running:
                code = self._process.returncode if self._process else None
                raise ServerStartError(f"{self.name} exited with code {code} before it was ready; {self._log_end()}")
            if time.monotonic() > deadline:
                self.stop()
                raise ServerStartError(f"{self.name} was not ready within {timeout:g} s; {self._log_end()}")
            time.sleep(POLL_SECONDS)

    def start(self, timeout: float = 60) -> None:
        """Start the server and wait until it is ready. Raises ServerStartError."""
        self.launch()
        self.wait_ready(timeout)

    def stop(self, timeout: float = 10) -> None:
        """Send SIGTERM, then SIGKILL after `timeout` seconds. Does nothing for a server that is not running."""
        process, self._process = self._process, None
        leash, self._leash = self._leash, None
        if leash is not None:
            leash.kill()
            leash.wait()
            if leash.stdin is not None:
                leash.stdin.close()
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    def terminate(self) -> None:
        """Send SIGTERM, without waiting."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill_group(self) -> None:
        """Send SIGKILL to the server and all its children, as when a pod is lost."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def kill(self) -> None:
        """Send SIGKILL to the server, as a crash would end it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        self.stop()

    def _log_end(self, lines: int = 15) -> str:
        try:
            text = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            text = []
        return f"log {self.log}:\n" + "\n".join(text)


def until_signal(servers: Sequence[ServerProcess]) -> int:
    """Block until SIGTERM or SIGINT (return 0), or until a server ends by itself (return 1)."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(0.5):
        for server in servers:
            if not server.running:
                print(f"{server.name} ended by itself; log {server.log}", file=sys.stderr, flush=True)
                return 1
    return 0
