"""Checks that the Celery workers and beat are at work: workers answer a ping; no timer is long overdue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from kombu.exceptions import OperationalError

from cli.doctor.finding import Finding, ok, skip, warn
from engine import bootstrap
from engine.settings import Settings
from workers.app import build

PING_SECONDS = 1.0
"""How long workers have to answer, in seconds."""
PATIENCE = 4
"""Factor for a second ping when a component did not answer: a worker on a busy node is slow, not missing."""
LATE = timedelta(seconds=60)
"""A timer that is overdue by more than this shows that nothing sweeps."""


def check_workers(settings: Settings) -> Iterator[Finding]:
    """Yield which workers answer, and whether timers are overdue. Raises LogUnavailable, and errors of the broker."""
    components = [name for name in ("listener", "operator") if getattr(settings, f"{name}_enabled")]
    try:
        answered = _answering(settings, PING_SECONDS)
        if not all(_of(component, answered) for component in components):
            answered |= _answering(settings, PING_SECONDS * PATIENCE)
    except OperationalError:
        yield skip("workers", "not checked, because the broker in Redis does not answer")
        return
    for component in components:
        names = _of(component, answered)
        if names:
            yield ok("workers", f"{component}: {', '.join(names)}")
        else:
            yield warn(
                "workers",
                f"no {component} worker answers within {PING_SECONDS * PATIENCE:g} s: the {component} does no work",
                f"start one: `agentplane {component}`; in a cluster, read the logs of its pods",
            )
    yield from _sweeps(settings)


def _of(component: str, answered: Iterable[str]) -> list[str]:
    return sorted(name for name in answered if name.startswith(f"{component}@"))


def _answering(settings: Settings, seconds: float) -> set[str]:
    """Return the names of the workers that answer a ping."""
    app = build(settings)
    try:
        return set(app.control.inspect(timeout=seconds).ping() or ())
    finally:
        app.close()


def _sweeps(settings: Settings) -> Iterator[Finding]:
    log = bootstrap.open_log(settings)
    try:
        overdue = [until for _, until in log.due() if datetime.now(UTC) - until > LATE]
    finally:
        log.close()
    if overdue:
        count = f"{len(overdue)} timers are" if len(overdue) > 1 else "1 timer is"
        yield warn(
            "sweeps",
            f"{count} overdue, the oldest since {min(overdue):%Y-%m-%d %H:%M:%S} UTC: nothing sweeps",
            "check that beat runs (`agentplane beat`), and a worker of the queue control-plane",
        )
