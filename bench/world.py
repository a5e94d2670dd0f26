"""The environment of a benchmark: a stack of the sandbox in a temporary folder, and a client of its control plane."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from engine.log.redis import RedisLog
from engine.settings import PREFIX as VARIABLES
from engine.settings import Settings
from sandbox import envtest
from sandbox.stack import PREFIX, Cluster, Ports, Stack

T = TypeVar("T")

Say = Callable[[str], None]
"""Prints a line about the progress."""

IMAGE = "sandbox.local/hello@sha256:" + "5" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line."""

    deployments: int | None = None
    """How many deployments; None for the default of each benchmark."""
    cluster: str = "auto"
    """`embedded`, `envtest`, or `auto`: envtest if it is installed, else embedded."""
    say: Say = lambda _: None

    def chosen(self) -> Cluster:
        """Return the cluster to use. Raises NotHere when it is not installed."""
        missing = envtest.available()
        if self.cluster == "auto":
            return Cluster.EMBEDDED if missing else Cluster.ENVTEST
        if self.cluster == "envtest" and missing:
            raise NotHere(f"real API server: {missing}; --cluster embedded uses the sandbox's API server")
        return Cluster(self.cluster)


class NotHere(Exception):
    """A program that the benchmark needs is not installed; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A running stack, its settings, and clients for it."""

    stack: Stack
    settings: Settings
    events: RedisLog
    http: httpx.Client
    """Client of the control plane."""

    def create(self, name: str, image: str = IMAGE) -> str:
        """Create a deployment on the control plane; return its id."""
        return create(self.http, name, image)

    def create_all(self, names: list[str]) -> list[str]:
        """Create deployments, sixteen at a time; return their ids."""
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self.create, names))


def create(http: httpx.Client, name: str, image: str = IMAGE) -> str:
    """Create a typical deployment; return its id."""
    answer = http.post("/v2/deployments", json=form(name, image))
    answer.raise_for_status()
    created: str = answer.json()["id"]
    return created


def form(name: str, image: str = IMAGE) -> dict[str, Any]:
    """Return the body of a request that creates a typical deployment, with resources and secrets."""
    return {
        "name": name,
        "source": "external_docker",
        "source_config": {"resource_spec": {"min_scale": 1, "cpu": 0.1, "memory_mb": 128}},
        "source_revision_config": {"image_uri": image},
        "secrets": [{"name": f"{part}_API_KEY", "value": f"{name}-{part}"} for part in ("MODEL", "SEARCH", "STORE")],
    }


@contextmanager
def running(
    options: Options,
    *,
    processes: bool = True,
    kubelet: bool = False,
    overrides: Mapping[str, str] | None = None,
) -> Iterator[World]:
    """Yield a running stack without Flower; without any engine process unless `processes`. Stop it after the block.

    When the block raises, the folder with the logs is kept, and `options.say` prints its path.
    """
    folder = Path(tempfile.mkdtemp(prefix="agentplane-bench-"))
    try:
        with _stack(options, folder, processes, kubelet, overrides or {}) as world:
            yield world
    except NotHere:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        options.say(f"the benchmark failed; logs: {folder / 'logs'}")
        raise
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _stack(
    options: Options, folder: Path, processes: bool, kubelet: bool, overrides: Mapping[str, str]
) -> Iterator[World]:
    stack = Stack(
        cluster=options.chosen(),
        directory=folder,
        ports=Ports.reserve(),
        overrides={"LOG_LEVEL": "warning", **overrides},
        kubelet=kubelet,
        without=frozenset({"flower"}),
    )
    try:
        start = stack.start if processes else stack.start_infrastructure
        start(lambda name: options.say(f"up: {name}"))
        with httpx.Client(
            base_url=stack.control_plane_url,
            headers={"X-Api-Key": stack.api_key},
            timeout=60,
            limits=httpx.Limits(max_connections=32),
        ) as http:
            events = RedisLog.from_url(stack.redis_url, PREFIX, timeout=60)
            yield World(stack=stack, settings=settings_of(stack.environment()), events=events, http=http)
            events.close()
    finally:
        stack.stop()
        stack.ports.give_back()


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Return the settings of an engine process with this environment."""
    mine = {name.removeprefix(VARIABLES).lower(): value for name, value in environment.items() if VARIABLES in name}
    return Settings.load(**mine)


def eventually(what: str, seconds: float, found: Callable[[], T | None], pause: float = 0.05) -> T:
    """Call `found` until it returns a true value, and return that value. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = found()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected within {seconds:g} s: {what}")
        time.sleep(pause)


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds that a process has used, None when the system does not report them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return None


def children(pid: int) -> list[int]:
    """Return the ids of all descendants of a process; none when the system does not report them."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            for child in map(int, file.read_text().split()):
                found += [child, *children(child)]
    return found
