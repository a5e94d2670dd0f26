"""The control plane as a process: start, restart, crash, end, and the speed of lists."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from sandbox.control_plane.rules import seeded_listener_id
from sandbox.control_plane.server import ControlPlane
from sandbox.ports import free_port, release
from sandbox.processes import ServerProcess

WORKSPACE, OTHER = str(uuid.uuid4()), str(uuid.uuid4())
KEY, OTHER_KEY = {"X-Api-Key": "key-1"}, {"X-Api-Key": "key-2"}
Start = Callable[..., ServerProcess]


@pytest.fixture
def port() -> Iterator[int]:
    port = free_port()
    yield port
    release(port)


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Starts the control plane with the test's database; processes that still run are ended after the test."""
    started: list[ServerProcess] = []

    def start(*more: str) -> ServerProcess:
        log = tmp_path / f"control-plane-{len(started)}.log"
        command = [sys.executable, "-m", "sandbox.control_plane", "--port", str(port), "--db", str(tmp_path / "db")]
        command += ["--workspace", WORKSPACE, "--api-key", "key-1", "--workspace", OTHER, "--api-key", "key-2", *more]
        process = ServerProcess(
            "control plane", command, log=log, ready=lambda: log.exists() and "ready" in log.read_text()
        )
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.stop()


def create(url: str, headers: dict[str, str], name: str) -> httpx.Response:
    form = {
        "name": name,
        "source": "external_docker",
        "source_config": {},
        "source_revision_config": {"image_uri": "sandbox.local/app:1"},
        "secrets": [{"name": "TOKEN", "value": "tell-nobody"}],
    }
    return httpx.post(f"{url}/v2/deployments", json=form, headers=headers).raise_for_status()


@pytest.mark.parametrize("end", [ServerProcess.stop, ServerProcess.kill], ids=["SIGTERM", "SIGKILL"])
def test_a_restart_keeps_everything(start: Start, port: int, end: Callable[[ServerProcess], None]) -> None:
    url = f"http://127.0.0.1:{port}"
    process = start()
    deployment = create(url, KEY, "kept").json()
    path = f"{url}/v2/deployments/{deployment['id']}"
    revision = f"{path}/revisions/{deployment['latest_revision_id']}"
    httpx.patch(f"{revision}/status", json={"status": "DEPLOYED"}, headers=KEY).raise_for_status()
    seen = [httpx.get(each, headers=KEY).json() for each in (path, revision)]
    end(process)

    start()
    assert [httpx.get(each, headers=KEY).json() for each in (path, revision)] == seen
    assert seen[0]["active_revision_id"] == deployment["latest_revision_id"]


def test_two_workspaces_with_seeded_listeners(start: Start, port: int, tmp_path: Path) -> None:
    start("--seed-listener", f"{WORKSPACE}:laptop:one,two", "--seed-listener", f"{OTHER}:desktop:three")
    found = [
        httpx.get(f"http://127.0.0.1:{port}/v2/listeners", headers=headers).json()["resources"]
        for headers in (KEY, OTHER_KEY)
    ]
    assert [[listener["compute_config"]["k8s_namespaces"] for listener in each] for each in found] == [
        [["one", "two"]],
        [["three"]],
    ]
    assert found[0][0]["id"] == seeded_listener_id(WORKSPACE, "laptop")
    assert found[0][0]["id"] in (tmp_path / "control-plane-0.log").read_text()


def test_it_prints_ready_once_ends_cleanly_and_prints_no_secrets(start: Start, port: int, tmp_path: Path) -> None:
    process = start()
    with httpx.Client(headers=KEY) as http:  # an open connection must not delay the end
        create(f"http://127.0.0.1:{port}", KEY, "app")
        http.get(f"http://127.0.0.1:{port}/v2/deployments")
        began = time.monotonic()
        popen = process._process
        assert popen is not None
        popen.terminate()
        assert popen.wait(15) == 0
        assert time.monotonic() - began < 10
    assert (tmp_path / "db").stat().st_mode & 0o077 == 0
    log = (tmp_path / "control-plane-0.log").read_text()
    assert log.splitlines() == [f"control plane: ready at http://127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--workspace", WORKSPACE, "--workspace", OTHER, "--api-key", "k"], "one key per workspace"),
        (["--workspace", WORKSPACE, "--api-key", "k", "--workspace", OTHER, "--api-key", "k"], "given twice"),
        (["--workspace", "no-uuid", "--api-key", "k"], "no-uuid"),
        (["--workspace", WORKSPACE, "--api-key", "k", "--seed-listener", "x"], "WORKSPACE:COMPUTE_ID"),
        (
            ["--workspace", WORKSPACE, "--api-key", "k", "--seed-listener", f"{OTHER}:c:n"],
            "is unknown; add --workspace",
        ),
        (
            ["--workspace", WORKSPACE, "--api-key", "k", "--seed-listener", f"{WORKSPACE}:c:No"],
            "not a valid namespace name",
        ),
    ],
)
def test_a_wrong_command_line_is_refused(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "sandbox.control_plane", "--port", "1", "--db", str(tmp_path / "db"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_ten_thousand_deployments_are_listed_quickly() -> None:
    """The limit is CPU time of the whole poll, not wall-clock time, because the machine may be busy."""
    count = 10_000
    with ControlPlane({"key": WORKSPACE}) as plane, httpx.Client(base_url=plane.url, headers=plane.headers()) as http:
        template = create(plane.url, plane.headers(), "app").json()
        with plane.store.transaction():
            for number in range(1, count):
                copy = {**template, "id": str(uuid.uuid4()), "name": f"app-{number}"}
                plane.store.save_deployment(copy)
        began, seen = time.process_time(), set()
        for offset in range(0, count, 100):
            page = http.get("/v2/deployments", params={"limit": 100, "offset": offset}).json()
            seen |= {resource["id"] for resource in page["resources"]}
        spent = time.process_time() - began
    assert len(seen) == count
    assert spent < 3, f"listing took {spent:.2f} s of CPU, client included"
