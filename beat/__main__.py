"""Beat: `python -m beat`. Settings come from the environment; a mistake in them is exit code 2."""

from __future__ import annotations

import sys

from beat.schedule import LONGEST_SLEEP, scheduler
from engine import telemetry
from engine.errors import SettingsError
from engine.settings import Settings
from workers.__main__ import quieten
from workers.app import build


def main() -> int:
    """Run in the foreground until SIGTERM or SIGINT."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    telemetry.configure(settings, "beat")
    quieten()
    beat = build(settings).Beat(
        quiet=True,
        loglevel=settings.log_level.upper(),
        scheduler_cls=scheduler(settings),
        max_interval=LONGEST_SLEEP,
    )
    beat.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
