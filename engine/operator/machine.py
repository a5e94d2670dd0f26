"""The operator as a machine (engine/runtime/machine.py): its fold, its decisions, its acts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from engine.digests import digest
from engine.event import Event
from engine.operator.config import OperatorConfig
from engine.operator.context import Context
from engine.operator.decide import decide
from engine.operator.events import LGP_EVENTS
from engine.operator.perform import perform
from engine.operator.plan import Plan, plan_for
from engine.operator.state import OperatorState, evolve
from engine.ports import Manifest, Ports
from engine.runtime.machine import Act, Decision
from engine.runtime.values import to_json

MOST_PLANS = 1000
"""Number of plans kept in memory."""


class OperatorMachine:
    """The machine for LGPs; implements `engine.runtime.machine.Machine`."""

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
        """Return the plan of the LGP, an empty one when there is no LGP."""
        if state.lgp is None:
            return Plan()
        # While the objects of an LGP come up, its plan is asked for many times; a plan is a value, so it may be shared.
        key = digest([to_json(state.lgp), state.adopted.model_dump(mode="json") if state.adopted else None])
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = plan_for(state.lgp, self.config, state.adopted)
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        return plan

    def manifests(self, state: OperatorState) -> list[Manifest]:
        """Return the manifests that the LGP asks for, in order: credentials without values, objects, the route."""
        found: list[Manifest] = []
        for planned in self.plan(state).objects.values():
            if planned.credential is not None:
                found.append(planned.credential.manifest)
            elif planned.manifest is not None:
                found.append(planned.manifest)
            elif planned.ingress_path is not None:
                metadata = {"namespace": planned.key.namespace, "name": planned.key.name}
                spec = planned.ingress_path.model_dump()
                found.append(
                    {
                        "apiVersion": planned.key.api_version,
                        "kind": planned.key.kind,
                        "metadata": metadata,
                        "spec": spec,
                    }
                )
        return found

    def digests(self, state: OperatorState) -> frozenset[str]:
        """Return the digests of everything that the LGP asks for, as ObjectsApplied records them."""
        return frozenset(planned.digest for planned in self.plan(state).objects.values())

    def perform(self, act: Act, state: OperatorState, ports: Ports) -> Sequence[Event]:
        if state.lgp is None:
            raise ValueError(f"{act.name} without an LGP: decide must not ask for it")
        plan = self.plan(state)
        return perform(act, Context(state=state, lgp=state.lgp, plan=plan, ports=ports, config=self.config))
