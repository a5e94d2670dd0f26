"""Is anybody at work? Workers answer a ping through the broker; work that waits far too long tells of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from kombu.exceptions import OperationalError

from cli.findings import Finding, ok, warn
from engine import bootstrap
from engine.settings import Settings
from workers.app import build

PING_SECONDS = 1.0
"""How long workers have to answer."""
PATIENCE = 4
"""Times as long, where one was not heard: a worker on a busy node is not one that is missing."""
LATE = timedelta(seconds=60)
"""Overdue by more than this, a timer tells that nobody sweeps."""


def check_workers(settings: Settings) -> Iterator[Finding]:
    """Which workers answer, and whether timers run out unheard. Raises LogUnavailable, and what the broker does."""
    components = [name for name in ("listener", "operator") if getattr(settings, f"{name}_enabled")]
    try:
        answered = _answering(settings, PING_SECONDS)
        if not all(_of(component, answered) for component in components):
            answered |= _answering(settings, PING_SECONDS * PATIENCE)
    except OperationalError:
        return  # the check of Redis says why
    for component in components:
        names = _of(component, answered)
        if names:
            yield ok("workers", f"{component}: {', '.join(names)}")
        else:
            yield warn(
                "workers",
                f"no {component} worker answers within {PING_SECONDS * PATIENCE:g} s: nothing of its component is done",
                f"start it: agentplane {component}; in a cluster look at its pods' logs",
            )
    yield from _sweeps(settings)


def _of(component: str, answered: dict[str, Any]) -> list[str]:
    return sorted(name for name in answered if name.startswith(f"{component}@"))


def _answering(settings: Settings, seconds: float) -> dict[str, Any]:
    app = build(settings)
    try:
        return app.control.inspect(timeout=seconds).ping() or {}
    finally:
        app.close()


def _sweeps(settings: Settings) -> Iterator[Finding]:
    log = bootstrap.open_log(settings)
    try:
        overdue = [until for _, until in log.due() if datetime.now(UTC) - until > LATE]
    finally:
        log.close()
    if overdue:
        yield warn(
            "sweeps",
            f"{len(overdue)} timers have run out, the first at {min(overdue):%Y-%m-%d %H:%M:%S} UTC, and nobody looked",
            "see that beat runs (agentplane beat), and a worker of the queue control-plane",
        )
