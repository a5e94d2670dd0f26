"""`agentplane archive` moves old events into a file, and `agentplane import` puts them back into the log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from engine.log.export import export_log, import_log
from engine.log.redis import RedisLog
from engine.queries import deployments
from tests.replay.record import LOGS


def agentplane(redis_url: str, prefix: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "AGENTPLANE_REDIS_URL": redis_url, "AGENTPLANE_PREFIX": prefix}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_deleted_deployment_goes_into_an_archive_and_comes_back(redis_url: str, prefix: str, tmp_path: Path) -> None:
    events = RedisLog.from_url(redis_url, prefix)
    recorded = (LOGS / "deletion.jsonl").read_bytes()
    import_log(events, recorded.splitlines(keepends=True))
    for stream in events.dirty():
        events.acknowledge(stream, events.version(stream))
    assert [view.status for view in deployments(events, deleted=True)] == ["DELETED"]

    done = agentplane(redis_url, prefix, "archive", str(tmp_path), "--gone-days", "0")
    assert done.returncode == 0, done.stderr
    assert deployments(events, deleted=True) == []

    (archive,) = tmp_path.iterdir()
    fresh = RedisLog.from_url(redis_url, f"{prefix}-again")
    import_log(fresh, [*archive.read_bytes().splitlines(keepends=True), *export_log(events)])
    assert b"".join(export_log(fresh)) == recorded
    again = agentplane(redis_url, prefix, "archive", str(tmp_path), "--gone-days", "0")
    assert "no events are that old" in again.stdout
