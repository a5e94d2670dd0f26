"""The operator as an instance of the engine's one shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from engine.digests import digest
from engine.event import Event
from engine.operator import perform
from engine.operator.config import OperatorConfig
from engine.operator.decide import decide
from engine.operator.events import LGP_EVENTS
from engine.operator.plan import Plan, plan_for
from engine.operator.state import OperatorState, evolve
from engine.ports import Manifest, Ports
from engine.runtime.machine import Act, Decision

MOST_PLANS = 1000
"""Plans kept in memory."""


class OperatorMachine:
    """`engine.runtime.machine.Machine` for LGPs."""

    name = "operator"
    stream_prefix = "lgp/"
    events = LGP_EVENTS
    initial = OperatorState()

    def __init__(self, config: OperatorConfig) -> None:
        self.config = config
        self._plans: OrderedDict[str, Plan] = OrderedDict()

    def evolve(self, state: OperatorState, event: Event, at: datetime) -> OperatorState:
        return evolve(state, event, at)

    def decide(self, state: OperatorState, now: datetime) -> Decision:
        return decide(state, self.plan(state), now)

    def namespace(self, state: OperatorState) -> str:
        return state.lgp.namespace if state.lgp is not None else ""

    def plan(self, state: OperatorState) -> Plan:
        """Return what the LGP asks for, nothing when there is none."""
        if state.lgp is None:
            return Plan()
        # The same LGP is planned for many times while its objects come up; a plan is a value, so it may be shared.
        key = digest([state.lgp.model_dump(), state.adopted.model_dump() if state.adopted else None])
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = plan_for(state.lgp, self.config, state.adopted)
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        return plan

    def manifests(self, state: OperatorState) -> list[Manifest]:
        """Return what the LGP asks for as manifests, in order: credentials without values, objects, the route."""
        found: list[Manifest] = []
        for wanted in self.plan(state).objects.values():
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
        return frozenset(wanted.digest for wanted in self.plan(state).objects.values())

    def perform(self, act: Act, state: OperatorState, ports: Ports) -> Sequence[Event]:
        return perform.perform(act, state, self.plan(state), ports, self.config)
