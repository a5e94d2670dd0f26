"""`agentplane archive`: moves old events out of the log into a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.log import event_log
from cli.output import console, counted
from engine.log.retention import Policy, retain
from engine.replay import configured


def archive(folder: Path, *, live_days: float | None, gone_days: float | None) -> None:
    """Move events that are older than these ages, in days, into a new file in `folder`; None keeps all of them."""
    log = event_log()
    policy = Policy(live=_days(live_days), gone=_days(gone_days))
    done = retain(log, configured(log), policy, folder, datetime.now(UTC))
    if done.archive is None:
        console.print("no events are that old")
        return
    events = sum(done.trimmed.values()) + sum(done.forgotten.values())
    console.print(
        f"moved {counted(events, 'event')} of {len(done.trimmed)} live and {len(done.forgotten)} deleted streams to "
        f"{done.archive}",
        soft_wrap=True,
    )


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)
