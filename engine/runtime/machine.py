"""The shape that both components share: a pure state machine, and acts that touch the world.

    evolve(state, event, at)     -> state                  pure fold; a state is a frozen value
    decide(state, now)           -> Act | Wait | Done      pure; the next step, one act at a time
    perform(act, state, ports)   -> [event, …]             the only I/O; what happened, good or bad, as events

Contract of a machine, relied on by `runtime.advance`:
- `evolve` and `decide` use no clock, network or randomness.
- An act may run twice, late, or at the same time as another run of the same act. The result is the same.
- `perform` returns at least one event, and that event changes what `decide` returns next. So the loop ends.
- `perform` returns a failure for which the machine has an event (a rejected object, a failed health check). The loop
  turns an error that `perform` raises into an event: a retryable error of `engine.errors` becomes ActDeferred, with
  the time of the next attempt; any other AgentplaneError becomes ActRefused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from engine.event import Event, Registry
from engine.ports import Manifest, Ports
from engine.runtime.values import Value


class Act(BaseModel):
    """Base of the acts: one idempotent step against the outside world, as a value. The class name is the act's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def name(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to do before `until` (UTC), unless an event comes first."""

    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """There is nothing to do until an event comes."""

    reason: str


Decision = Act | Wait | Done

S = TypeVar("S", bound=Value)


class Machine(Protocol[S]):
    """One component of the data plane, over states of class `S`."""

    @property
    def name(self) -> str:
        """`listener` or `operator`; also the actor of its events."""
        ...

    @property
    def stream_prefix(self) -> str:
        """`deployment/` or `lgp/`."""
        ...

    @property
    def events(self) -> Registry:
        """The classes of the events in this component's streams."""
        ...

    @property
    def initial(self) -> S:
        """The state of a stream without events."""
        ...

    @property
    def config(self) -> BaseModel:
        """What decisions depend on besides the events. A change is recorded in the log; it holds no secrets."""
        ...

    def evolve(self, state: S, event: Event, at: datetime) -> S:
        """Return the state after `event`, which was appended `at` (UTC)."""
        ...

    def decide(self, state: S, now: datetime) -> Decision:
        """Return the next step for `state` at the time `now` (UTC)."""
        ...

    def namespace(self, state: S) -> str:
        """Return the namespace that the acts of `state` write to; empty while it is not known."""
        ...

    def manifests(self, state: S) -> list[Manifest]:
        """Return the Kubernetes objects that `state` asks for, without secret values, in the order of their applies."""
        ...

    def digests(self, state: S) -> frozenset[str]:
        """Return the digests of the objects that `state` asks for, as the events of their applies record them."""
        ...

    def perform(self, act: Act, state: S, ports: Ports) -> Sequence[Event]:
        """Perform `act`; return what happened. Raises AgentplaneError for a failure that no event describes."""
        ...


AnyMachine: TypeAlias = Machine[Any]
"""A machine over some class of states: a state comes from the machine's own `initial` and `evolve`."""
