"""The operator as an instance of the engine's one shape."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from engine.event import Event
from engine.machine import Act, Decision
from engine.operator import acts, state
from engine.operator.config import OperatorConfig
from engine.operator.decide import decide
from engine.operator.desired import Desired, desired
from engine.operator.events import LGP_EVENTS
from engine.operator.state import OperatorState


class OperatorMachine:
    """`engine.machine.Machine` for LGPs."""

    name = "operator"
    stream_prefix = "lgp/"
    events = LGP_EVENTS
    initial = OperatorState()

    def __init__(self, config: OperatorConfig) -> None:
        self.config = config

    def evolve(self, state_: OperatorState, event: Event, at: datetime) -> OperatorState:
        return state.evolve(state_, event, at)

    def decide(self, state_: OperatorState, now: datetime) -> Decision:
        return decide(state_, self.desired(state_), now)

    def desired(self, state_: OperatorState) -> Desired:
        """Return what the LGP asks for, nothing when there is none."""
        return Desired() if state_.lgp is None else desired(state_.lgp, self.config)

    def manifests(self, state_: OperatorState) -> list[dict[str, Any]]:
        """Return what the LGP asks for as manifests, in order: credentials without values, objects, the route."""
        found: list[dict[str, Any]] = []
        for wanted in self.desired(state_).objects.values():
            if wanted.credential is not None:
                found.append(wanted.credential.manifest)
            elif wanted.manifest is not None:
                found.append(wanted.manifest)
            elif wanted.route is not None:
                metadata = {"namespace": wanted.key.namespace, "name": wanted.key.name}
                spec = wanted.route.model_dump()
                found.append(
                    {"apiVersion": wanted.key.api_version, "kind": wanted.key.kind, "metadata": metadata, "spec": spec}
                )
        return found

    def perform(self, act: Act, state_: OperatorState, ports: Any) -> Sequence[Event]:
        return acts.perform(act, state_, ports, self.config)
