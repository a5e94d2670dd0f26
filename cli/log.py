"""The event log of the installation, for commands that read or append events: Redis is all that they need."""

from __future__ import annotations

import getpass

from engine.bootstrap import open_log
from engine.errors import AgentplaneError, ConcurrencyConflict
from engine.event import Event
from engine.log.contract import EventLog
from engine.log.redis import RedisLog
from engine.settings import Settings, variable

ACTOR = "cli"
"""The actor of events that a command appends."""


class NotOperable(AgentplaneError):
    """The command does not apply to this deployment or this log; the message says why."""


def settings() -> Settings:
    """Return the settings without those that only the components need. Raises SettingsError."""
    return Settings.load(listener_enabled=False, operator_enabled=False)


def event_log() -> RedisLog:
    """Return the installation's event log. Raises SettingsError here, and LogUnavailable when the log is used."""
    return open_log(settings())


def append(log: EventLog, stream: str, event: Event) -> None:
    """Append one event after the last one of `stream`. The next sweep brings the stream to a worker."""
    while True:
        try:
            log.append(stream, log.version(stream), [event], actor=ACTOR)
        except ConcurrencyConflict:
            continue
        return


def person() -> str:
    """Return the name of the user who gives the command, for the log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def redis_fix(given: Settings) -> str:
    """Return what to do when Redis does not answer; without the setting the default URL was tried."""
    name = variable("redis_url")
    if "redis_url" in given.model_fields_set:
        return f"start Redis, or correct {name}"
    return f"{name} is not set; set it, or load your environment file"
