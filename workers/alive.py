"""Whether a process on this machine is alive, for probes: `python -m workers.alive listener --prefix agentplane`.

It looks at the age of the file that the process touches (`workers.heartbeat`, `workers.watcher`) and says what their
`--check` says. But a probe runs in every pod all the time, also where processors are short, and one that is late kills
what it asks for. So this module imports the standard library only: 30 ms of a processor, where the settings alone cost
300 and the whole process 900. What it must know of the settings comes as an argument.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STALE_SECONDS = {"listener": 300.0, "operator": 300.0, "beat": 300.0, "watcher": 60.0}
"""By process: after how long the last sign of life is too old."""


def heartbeat_file(prefix: str, process: str) -> Path:
    """Return the file that `process` of the installation with that prefix touches."""
    return Path(tempfile.gettempdir()) / f"{prefix}-{process}.heartbeat"


def problem(file: Path, now: float, stale: float) -> str | None:
    """Return why the process is not alive, if it is not. `now` is seconds since 1970, `stale` seconds."""
    try:
        age = now - file.stat().st_mtime
    except FileNotFoundError:
        return f"{file} is not there: the process has not begun to work"
    return f"the last sign of life in {file} is {age:.0f} s old" if age > stale else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when it is alive, else 1, and say which."""
    parser = argparse.ArgumentParser(prog="python -m workers.alive", description="Say whether a process is alive.")
    parser.add_argument("process", choices=list(STALE_SECONDS))
    parser.add_argument("--prefix", required=True, help="of the installation (AGENTPLANE_PREFIX)")
    options = parser.parse_args(arguments)
    dead = problem(heartbeat_file(options.prefix, options.process), time.time(), STALE_SECONDS[options.process])
    print(dead or "alive", file=sys.stderr)
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
