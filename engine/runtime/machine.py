"""The shape that both components share: a pure state machine, and acts that touch the world.

    evolve(state, event, at)  -> state                     pure fold; state is a frozen value
    decide(state, now)        -> Act | Wait | Done         pure; what to do next, one act at a time
    perform(act, ports)       -> [event, …]                the only I/O; what happened, good or bad, as events

Contract of a machine, relied on by `runtime.advance`:
- `evolve` and `decide` know no clock, network or randomness.
- An act may run twice, late, or next to its twin, and leaves the same result.
- `perform` always returns at least one event, and that event changes what `decide` says next; so the loop ends.
- A failure that the machine has an event for (a rejected object, a failed health check) is returned, not raised.
  What is raised (`retryable` errors of `engine.errors`) becomes an `ActDeferred` event with a time to try again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from engine.event import Event, Registry


class State(BaseModel):
    """Base of the states: a frozen value with a canonical JSON form."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Act(BaseModel):
    """Base of the acts: one idempotent step against the outside world, as a value. The class name is its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def name(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (UTC), unless an event comes first."""

    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to do until an event comes."""

    reason: str


Decision = Act | Wait | Done

S = TypeVar("S", bound=State)


class Machine(Protocol, Generic[S]):
    """One half of the data plane."""

    @property
    def name(self) -> str:
        """`listener` or `operator`; also the actor of its events."""
        ...

    @property
    def stream_prefix(self) -> str:
        """`deployment/` or `lgp/`."""
        ...

    @property
    def events(self) -> Registry: ...

    @property
    def initial(self) -> S: ...

    @property
    def config(self) -> BaseModel:
        """What decisions depend on besides the events: recorded in the log whenever it changes, free of secrets."""
        ...

    def evolve(self, state: S, event: Event, at: datetime) -> S: ...

    def decide(self, state: S, now: datetime) -> Decision: ...

    def namespace(self, state: S) -> str:
        """Return the namespace that the acts of `state` write to, empty while there is none."""
        ...

    def manifests(self, state: S) -> list[dict[str, Any]]:
        """Return the Kubernetes objects that `state` asks for, without secret values, in the order of application."""
        ...

    def digests(self, state: S) -> frozenset[str]:
        """Return the digests of all that `state` asks for, as the events of its application record them."""
        ...

    def perform(self, act: Act, state: S, ports: Any) -> Sequence[Event]: ...
