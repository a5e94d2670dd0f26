"""Real worker and beat processes for tests, over a small machine instead of the components.

`python -m tests.support.fleet listener` runs the listener worker by the same code path as `python -m workers listener`.
Only the machine that advances deployments is another one, from `tests/support/notes.py`: each of its steps writes a
line to a file when it begins and when it is done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from engine import telemetry
from engine.bootstrap import Engine
from engine.clock import SystemClock
from engine.log.redis import RedisLog, connect
from engine.settings import Settings
from sandbox.processes import ServerProcess
from tests.support.notes import Asked, Step, Worker, no_leases, ports
from workers.__main__ import GRACE, quieten, work
from workers.app import RECONCILE, build, in_flight_key, list_key
from workers.dispatch import CeleryDispatcher

ROOT = Path(__file__).resolve().parents[2]


def environment(redis_url: str, prefix: str, **more: str) -> dict[str, str]:
    """Return the settings of an installation without a cluster or a control plane."""
    settings = {
        "REDIS_URL": redis_url,
        "PREFIX": prefix,
        "LANGSMITH_API_KEY": "not-a-key",
        "WORKSPACE_ID": str(UUID(int=1)),
        "LISTENER_ID": str(UUID(int=2)),
        "WATCH_NAMESPACES": "default",
        "INGRESS_HOSTNAME": "agents.test",
        "POLL_SECONDS": "3600",
        "SWEEP_SECONDS": "0.5",
        "LOCK_SECONDS": "3",
        **more,
    }
    return {f"AGENTPLANE_{name}": value for name, value in settings.items()}


@contextmanager
def variables(given: dict[str, str]) -> Iterator[None]:
    """Set the variables of `given` in the environment of this process until the block ends."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def consumes(log: str) -> bool:
    """Whether the log of a worker says that it consumes messages."""
    return '"event":"ready"' in log


def restore(settings: Settings, worker: str) -> None:
    """Requeue the unacknowledged messages of a kind of worker, as workers do after the visibility timeout."""
    with build(settings, worker).connection_for_read() as connection:
        channel = connection.default_channel
        channel.visibility_timeout = 0
        channel.qos.restore_visible(num=None)


@dataclass
class Fleet:
    """One installation: its processes and its event log."""

    redis_url: str
    prefix: str
    folder: Path
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "effects").touch()
        self.environment = environment(self.redis_url, self.prefix, **self.more)
        with variables(self.environment):
            self.settings = Settings.load()
        self.events = RedisLog.from_url(self.settings.redis, self.prefix)
        self.dispatcher = CeleryDispatcher(self.settings)
        self.client = connect(self.settings.redis)
        self._started: list[ServerProcess] = []

    def worker(
        self, threads: int = 4, step_seconds: float = 0.0, grace: float = GRACE, *, wait: bool = True
    ) -> ServerProcess:
        """Start a listener worker and, unless `wait` is false, wait until it consumes."""
        command = ["-m", "tests.support.fleet", "listener", str(threads), str(step_seconds), str(grace)]
        return self._start("worker", command, consumes, wait)

    def operator(self, threads: int) -> ServerProcess:
        """Start the real operator worker, as the chart does, and wait until it consumes."""
        return self._start("operator", ["-m", "workers", "operator", "--threads", str(threads)], consumes)

    def beat(self) -> ServerProcess:
        """Start beat."""
        return self._start("beat", ["-m", "beat"], lambda log: True)

    def _start(self, name: str, command: list[str], ready: Callable[[str], bool], wait: bool = True) -> ServerProcess:
        log = self.folder / f"{name}-{len(self._started)}.log"
        process = ServerProcess(
            name,
            [sys.executable, *command],
            log=log,
            ready=lambda: log.exists() and ready(log.read_text()),
            env={
                **os.environ,
                **self.environment,
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(self.folder),
                "EFFECTS": str(self.folder / "effects"),
            },
            cwd=self.folder,
        )
        self._started.append(process)
        process.launch()
        if wait:
            process.wait_ready()
        return process

    def stop(self) -> None:
        for process in self._started:
            process.stop(timeout=15)
        self.events.close()
        self.client.close()

    # --- work

    def ask(self, name: str, steps: int) -> str:
        """Append a request for steps to a stream, but send no message to the workers; return the stream."""
        stream = f"deployment/{name}"
        self.events.append(stream, self.events.version(stream), [Asked(steps=steps)], actor="test")
        return stream

    def steps(self, stream: str) -> list[int]:
        """Return the numbers of the steps that the log says were done."""
        return [record.data["number"] for record in self.events.read(stream) if record.type == "Stepped"]

    def effects(self, what: str = "done") -> list[str]:
        """Return the steps that were `begun` or `done` according to the effects file, as `<stream> <step>`."""
        lines = (self.folder / "effects").read_text().splitlines()
        return [line.removeprefix(f"{what} ") for line in lines if line.startswith(f"{what} ")]

    # --- messages in the broker

    def queued(self) -> int:
        return int(self.client.llen(list_key(self.settings, RECONCILE)))

    def unacknowledged(self) -> int:
        return int(self.client.hlen(in_flight_key(self.settings, "listener")))


def write(line: str) -> None:
    """Append one line atomically, although other threads and processes write too."""
    descriptor = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


class FleetWorker(Worker):
    """The machine of the worker process."""

    name = "listener"
    stream_prefix = "deployment/"

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def perform(self, act: Any, state: Any, ports: Any) -> Any:
        assert isinstance(act, Step)
        stream = structlog.contextvars.get_contextvars()["stream"]
        write(f"begun {stream} {act.number}")
        time.sleep(self._seconds)
        ports.keep_lock()
        write(f"done {stream} {act.number}")
        return super().perform(act, state, ports)


def main(process: str, threads: str, step_seconds: str, grace: str) -> int:
    settings = Settings.load()
    telemetry.configure(settings, process)
    quieten()
    events = RedisLog.from_url(settings.redis, settings.prefix)
    engine = Engine(
        settings=settings,
        events=events,
        ports=ports(SystemClock()),
        dispatcher=CeleryDispatcher(settings),
        leases=no_leases(),
        machines={"deployment/": FleetWorker(float(step_seconds))},
    )
    return work(settings, process, int(threads), engine, float(grace))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
