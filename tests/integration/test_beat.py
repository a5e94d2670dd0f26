"""Beat as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.fleet import environment

ROOT = Path(__file__).resolve().parents[2]

TOLD_TO_STOP = """
import os, signal, sys
from beat.__main__ import main
from beat.schedule import Scheduler

def tick(self):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        pass  # as a `finally` that fails, or a `__del__`, does to what is raised in it
    return 0.01

Scheduler.tick = tick
sys.exit(main([]))
"""


def test_beat_ends_on_a_signal_at_any_moment(tmp_path: Path) -> None:
    variables = {**os.environ, **environment("redis://127.0.0.1:1/0", "blue"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", TOLD_TO_STOP]
    ended = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
