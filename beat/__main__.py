"""Beat: `python -m beat`. The schedule, with the poll interval, is in beat/schedule.py.

Settings come from the environment; a mistake in them ends the process with exit code 2.

python -m beat --check     exits with 1 if the heartbeat is too old (workers/heartbeat.py)
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from celery.beat import Service  # type: ignore[import-untyped]

from beat.schedule import LONGEST_SLEEP, scheduler
from engine import telemetry
from engine.errors import SettingsError
from engine.settings import Settings
from workers import heartbeat
from workers.__main__ import quieten
from workers.app import build


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m beat", description="Schedule polls and sweeps.")
    parser.add_argument("--check", action="store_true", help="print whether beat is alive; exit with 1 if not")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        dead = heartbeat.check(settings, "beat")
        print(dead or "alive", file=sys.stderr)
        return 1 if dead else 0
    telemetry.configure(settings, "beat")
    quieten()
    beat = build(settings).Beat(
        quiet=True,
        loglevel=settings.log_level.upper(),
        scheduler_cls=scheduler(settings),
        max_interval=LONGEST_SLEEP,
    )
    beat.install_sync_handler = stop_on_signals
    beat.run()
    return 0


def stop_on_signals(service: Service) -> None:
    """Make SIGTERM and SIGINT end `service` after its current tick.

    Celery's own handler raises SystemExit wherever the program is at that moment. A failing `finally` or a `__del__`
    swallows the exception, and then beat never ends.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())


if __name__ == "__main__":
    sys.exit(main())
