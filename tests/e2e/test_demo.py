"""The demo as a newcomer runs it, on both clusters, and then a search for secret values in everything that it wrote."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox import envtest
from sandbox.demo.scenario import FIRST_SECRET, SECOND_SECRET, STEPS
from sandbox.stack import Cluster

SECRETS = {value.encode() for value in (*FIRST_SECRET.values(), *SECOND_SECRET.values())}
BODY = re.compile(rb'"body": ?"([A-Za-z0-9+/=]+)"')

pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Finished:
    """A finished run of the demo."""

    code: int
    output: str
    summary: dict[str, Any]
    directory: Path


@pytest.fixture(scope="module", params=[Cluster.EMBEDDED, Cluster.ENVTEST], ids=lambda cluster: cluster.value)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    cluster: Cluster = request.param
    if cluster is Cluster.ENVTEST and (reason := envtest.available()):
        pytest.skip(f"no real API server: {reason}")
    temporary = tmp_path_factory.mktemp(f"demo-{cluster.value}")
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "demo", "--cluster", cluster.value, "--keep"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=380,
        check=False,
    )
    print(done.stdout)
    (directory,) = temporary.glob("agentplane-demo-*")
    return Finished(done.returncode, done.stdout, json.loads(done.stdout.splitlines()[-1]), directory)


def test_every_step_holds(finished: Finished) -> None:
    assert finished.code == 0, finished.output
    assert finished.summary["ok"] is True
    assert {step.name for step in STEPS} <= set(finished.summary["seconds"])
    assert finished.summary["prober_failures"] == 0
    assert finished.summary["probes"] > 10


def test_workers_were_killed_and_came_back(finished: Finished) -> None:
    assert finished.summary["restarts"].get("listener", 0) >= 1
    assert finished.summary["restarts"].get("operator", 0) >= 1


def test_nothing_is_left_running(finished: Finished) -> None:
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert [line for line in left.splitlines() if str(finished.directory) in line and "ps -eo" not in line] == []


def everything_written(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield Redis's append-only file, with task messages decoded, every log line, and the export."""
    for path in sorted((directory / "redis").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            yield f"redis {path.name}", content
            for body in BODY.findall(content.replace(b'\\"', b'"')):
                yield "task message", base64.b64decode(body)
    for path in sorted((directory / "logs").iterdir()):
        yield f"log of {path.stem}", path.read_bytes()
    for path in sorted(directory.glob("*.jsonl")):
        yield path.name, path.read_bytes()


def test_no_secret_value_is_in_redis_in_a_task_or_in_a_log_line(finished: Finished) -> None:
    written = list(everything_written(finished.directory))
    kinds = [where.split()[0] for where, _ in written]

    # The search covers real content: Redis holds events, tasks were sent, and every process logged.
    assert kinds.count("task") > 10
    assert any(b"RevisionRequested" in content for where, content in written if where.startswith("redis"))
    assert any(b"deployment/" in content for where, content in written if where == "task message")
    assert any(where == "log of listener" and content for where, content in written)

    found = sorted({where for where, content in written if any(secret in content for secret in SECRETS)})
    assert found == []


def test_the_scrubbed_crash_log_says_why_all_the_same(finished: Finished) -> None:
    exported = (finished.directory / "log.jsonl").read_text()
    assert "no weights found in /models" in exported
    assert "GREETING_SECRET is ***" in exported
