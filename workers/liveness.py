"""The probe of a process on this machine: `python -m workers.liveness listener --prefix agentplane`.

The probe checks the age of the heartbeat file that the process touches (`workers.heartbeat`, `workers.watcher`), and
reports what the `--check` option of the process reports. Probes run in every pod all the time, also where CPU is short,
and Kubernetes kills a process whose probe is late. Therefore this module imports the standard library only: it takes
30 ms of CPU, where loading the settings takes 300 ms and loading the whole process 900 ms. What the probe needs of the
settings is an argument.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STALE_SECONDS = {"listener": 300.0, "operator": 300.0, "beat": 300.0, "watcher": 60.0}
"""By process: the age, in seconds, from which on its heartbeat is too old."""


def heartbeat_file(prefix: str, process: str) -> Path:
    """Return the file that `process` of the installation with that prefix touches."""
    return Path(tempfile.gettempdir()) / f"{prefix}-{process}.heartbeat"


def problem(file: Path, now: float, stale: float) -> str | None:
    """Return why the process is not alive, None if it is. `now` is seconds since 1970, `stale` an age in seconds."""
    try:
        age = now - file.stat().st_mtime
    except FileNotFoundError:
        return f"{file} does not exist: the process has not started to work"
    return (
        f"the last heartbeat in {file} is {age:.0f} s old; at most {stale:.0f} s are allowed" if age > stale else None
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print whether the process is alive, or why it is not; return 0 if it is, else 1."""
    parser = argparse.ArgumentParser(prog="python -m workers.liveness", description="Check whether a process is alive.")
    parser.add_argument("process", choices=list(STALE_SECONDS))
    parser.add_argument("--prefix", required=True, help="prefix of the installation (AGENTPLANE_PREFIX)")
    options = parser.parse_args(arguments)
    dead = problem(heartbeat_file(options.prefix, options.process), time.time(), STALE_SECONDS[options.process])
    print(dead or "alive", file=sys.stderr)
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
