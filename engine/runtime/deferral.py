"""Deferrals: acts that failed, and when each is tried again. One rule for both components.

An act that fails is *deferred*: a passing failure to the time that ActDeferred names, a refusal (the API server
rejects the object, our role lacks a permission) for a time that doubles up to an hour, because a person may fix the
cause without touching the deployment. How long an act waits, and the caps, are in `engine/runtime/backoff.py`. The
act's success ends its deferral. New input ends every deferral.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from engine.event import Event
from engine.runtime.backoff import refused_delay
from engine.runtime.machine import Act
from engine.runtime.values import Value


@dataclass(frozen=True, kw_only=True)
class Deferral(Value):
    """An act that failed, and waits."""

    until: datetime
    """When the act is tried again (UTC)."""
    reason: str
    """Why the act failed, for a person."""
    attempts: int
    """Failures of this kind in a row, from 1."""
    refused: bool
    """A peer refused the act; otherwise the failure passes by itself."""
    since: datetime
    """When the first failure of this kind in a row happened (UTC)."""


@dataclass(frozen=True)
class Deferrals(Value):
    """The acts of one stream that wait. A frozen value: every method returns another one."""

    by_act: Mapping[str, Deferral] = field(default_factory=dict)
    """Name of the act → its deferral."""

    def __bool__(self) -> bool:
        return bool(self.by_act)

    def __iter__(self) -> Iterator[tuple[str, Deferral]]:
        return iter(self.by_act.items())

    def holding(self, act: Act, now: datetime) -> Deferral | None:
        """Return the deferral that keeps `act` from being performed `now`; None when nothing does."""
        deferral = self.by_act.get(act.name)
        return None if deferral is None or deferral.until <= now else deferral

    def refused(self) -> Iterator[tuple[str, Deferral]]:
        """Yield the acts that were refused."""
        return ((act, deferral) for act, deferral in self.by_act.items() if deferral.refused)

    def defer(self, act: str, reason: str, at: datetime, *, until: datetime, attempt: int | None = None) -> Deferrals:
        """Return the deferrals after a passing failure of `act` that happened `at`.

        `attempt` is the number that the event gives the failure: it counts on across new input, which ends deferrals.
        """
        return self._with(act, reason, at, until=until, refused=False, attempts=attempt)

    def refuse(self, act: str, reason: str, at: datetime) -> Deferrals:
        """Return the deferrals after a refusal of `act` that happened `at`."""
        before = self.by_act.get(act)
        attempts = before.attempts + 1 if before is not None and before.refused else 1
        return self._with(act, reason, at, until=at + refused_delay(attempts), refused=True)

    def release(self, act: str) -> Deferrals:
        """Return the deferrals without that of `act`."""
        if act not in self.by_act:
            return self
        return Deferrals({name: deferral for name, deferral in self.by_act.items() if name != act})

    def ended_by(self, event: Event, ends: Ends) -> Deferrals:
        """Return the deferrals without that of the act which `event` shows to have succeeded."""
        act = ends.get(type(event))
        return self if act is None else self.release(act.__name__)

    def _with(
        self, act: str, reason: str, at: datetime, *, until: datetime, refused: bool, attempts: int | None = None
    ) -> Deferrals:
        before = self.by_act.get(act)
        again = before if before is not None and before.refused is refused else None
        deferral = Deferral(
            until=until,
            reason=reason,
            attempts=attempts or (again.attempts + 1 if again is not None else 1),
            refused=refused,
            since=again.since if again is not None else at,
        )
        return Deferrals({**self.by_act, act: deferral})


NONE = Deferrals()
"""No act waits."""

Ends = Mapping[type[Event], type[Act]]
"""Class of events → the act that such an event shows to have succeeded."""
