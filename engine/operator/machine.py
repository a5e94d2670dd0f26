"""The operator as an instance of the engine's one shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from engine.event import Event
from engine.folding import digest
from engine.machine import Act, Decision
from engine.operator import acts
from engine.operator.config import OperatorConfig
from engine.operator.decide import decide
from engine.operator.desired import Desired, desired
from engine.operator.events import LGP_EVENTS
from engine.operator.state import OperatorState, evolve

MOST_PLANS = 1000
"""Plans kept in memory."""


class OperatorMachine:
    """`engine.machine.Machine` for LGPs."""

    name = "operator"
    stream_prefix = "lgp/"
    events = LGP_EVENTS
    initial = OperatorState()

    def __init__(self, config: OperatorConfig) -> None:
        self.config = config
        self._plans: OrderedDict[str, Desired] = OrderedDict()

    def evolve(self, state: OperatorState, event: Event, at: datetime) -> OperatorState:
        return evolve(state, event, at)

    def decide(self, state: OperatorState, now: datetime) -> Decision:
        return decide(state, self.desired(state), now)

    def namespace(self, state: OperatorState) -> str:
        return state.lgp.namespace if state.lgp is not None else ""

    def desired(self, state: OperatorState) -> Desired:
        """Return what the LGP asks for, nothing when there is none."""
        if state.lgp is None:
            return Desired()
        # The same LGP is planned for many times while its objects come up; a plan is a value, so it may be shared.
        key = digest([state.lgp.model_dump(), state.adopted.model_dump() if state.adopted else None])
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = desired(state.lgp, self.config, state.adopted)
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        return plan

    def manifests(self, state: OperatorState) -> list[dict[str, Any]]:
        """Return what the LGP asks for as manifests, in order: credentials without values, objects, the route."""
        found: list[dict[str, Any]] = []
        for wanted in self.desired(state).objects.values():
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

    def digests(self, state: OperatorState) -> frozenset[str]:
        """Return the digests of everything that the LGP asks for, as ObjectsApplied records them."""
        return frozenset(wanted.digest for wanted in self.desired(state).objects.values())

    def perform(self, act: Act, state: OperatorState, ports: Any) -> Sequence[Event]:
        return acts.perform(act, state, self.desired(state), ports, self.config)
