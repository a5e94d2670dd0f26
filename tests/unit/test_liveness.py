"""The probe of a process: it is right, and it is cheap."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers import liveness, watcher

ROOT = Path(__file__).resolve().parents[2]


def test_a_probe_loads_nothing_but_the_standard_library() -> None:
    """With the settings or Celery it would cost so much that a busy node kills healthy pods."""
    seen = "import sys, workers.liveness; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-S", "-c", seen]  # -S: without installed packages altogether
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= {*sys.stdlib_module_names, "__main__", "workers"}


def test_a_process_is_alive_while_its_heartbeat_is_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert liveness.main(["watcher", "--prefix", "blue"]) == 1

    (tmp_path / "blue-watcher.heartbeat").touch()
    assert liveness.main(["watcher", "--prefix", "blue"]) == 0
    assert liveness.main(["watcher", "--prefix", "green"]) == 1

    ago = time.time() - liveness.STALE_SECONDS["watcher"] - 1
    os.utime(tmp_path / "blue-watcher.heartbeat", (ago, ago))
    assert liveness.main(["watcher", "--prefix", "blue"]) == 1


def test_it_is_as_patient_with_the_watcher_as_the_watchers_own_check() -> None:
    assert liveness.STALE_SECONDS["watcher"] == watcher.STALE
