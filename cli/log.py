"""Opening the event log for commands that only read, or move, events: Redis is all they need."""

from __future__ import annotations

from engine.bootstrap import open_log
from engine.log.redis import RedisLog
from engine.settings import Settings


def settings() -> Settings:
    """Return the settings without what only the components need. Raises SettingsError."""
    return Settings.load(listener_enabled=False, operator_enabled=False)


def event_log() -> RedisLog:
    """Return the installation's event log. Raises SettingsError, and LogUnavailable when it is used."""
    return open_log(settings())
