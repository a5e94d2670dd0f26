"""Each recorded log replays to the same decisions and manifests, twice to the same bytes, and survives an import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.digests import canonical
from engine.log.export import export_log, import_log
from engine.log.memory import MemoryLog
from engine.replay import replay
from tests.replay.record import LOGS, RECORDINGS

EXPECTED_EVENTS = {
    "happy-path": {"RevisionDeployed", "ObjectsApplied", "LgpStatusApplied", "StatusReported"},
    "update": {"RevisionDeployed", "SecretsPruned"},
    "failed-revision": {"RevisionFailed"},
    "superseded-revision": {"RevisionSuperseded", "RevisionDeployed"},
    "crash-in-mid-rollout": {"RevisionDeployed"},
    "deletion": {"DeletionRequested", "LgpRemoved", "ObjectsPruned", "DeploymentDeleted"},
    "drift": {"DriftDetected"},
}
"""What makes each recording worth keeping."""


def lines(name: str) -> list[bytes]:
    return (LOGS / f"{name}.jsonl").read_bytes().splitlines(keepends=True)


def loaded(name: str) -> MemoryLog:
    log = MemoryLog()
    import_log(log, lines(name))
    return log


@pytest.mark.parametrize("name", RECORDINGS)
def test_todays_code_agrees_with_the_log(name: str) -> None:
    result = replay(loaded(name).read_all(limit=100_000))

    assert list(result.divergences) == []
    assert result.checked > 5


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_recording_holds_what_it_is_for(name: str) -> None:
    types = {record.type for record in loaded(name).read_all(limit=100_000)}

    assert EXPECTED_EVENTS[name] <= types


@pytest.mark.parametrize("name", RECORDINGS)
def test_an_export_of_the_import_is_the_same_bytes(name: str) -> None:
    assert list(export_log(loaded(name))) == lines(name)


def test_a_fresh_process_replays_to_the_same_bytes(tmp_path: Path) -> None:
    transcripts = []
    for number in range(2):
        transcript = tmp_path / f"{number}.jsonl"
        command = [
            sys.executable,
            "-m",
            "cli.main",
            "replay",
            str(LOGS / "update.jsonl"),
            "--transcript",
            str(transcript),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        transcripts.append(transcript.read_bytes())

    here = replay(loaded("update").read_all(limit=100_000)).transcript
    assert transcripts[0] == transcripts[1] == b"".join(entry + b"\n" for entry in here)


@pytest.mark.parametrize(
    ("event", "field", "value", "told"),
    [
        ("LgpApplied", "manifest_digest", "0" * 16, "has a manifest of digest 0000000000000000"),
        ("RevisionFailed", None, None, "but the current code decides"),
    ],
)
def test_a_log_that_was_tampered_with_diverges(event: str, field: str | None, value: str | None, told: str) -> None:
    head, *records = [json.loads(line) for line in lines("failed-revision")]
    found = next(record for record in records if record["type"] == event)
    if field is None:
        found["cause"] = "PruneSecrets"
    else:
        found["data"][field] = value
    log = MemoryLog()
    import_log(log, [canonical(line) + b"\n" for line in (head, *records)])

    problems = [divergence.problem for divergence in replay(log.read_all(limit=100_000)).divergences]
    assert any(told in problem for problem in problems), problems
