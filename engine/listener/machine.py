"""The listener as an instance of the one shape (`engine.runtime.machine`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from engine.digests import digest
from engine.event import Event
from engine.listener.config import ListenerConfig
from engine.listener.decide import decide
from engine.listener.desired import desired_manifest, placed_manifest, predecessor_manifest
from engine.listener.events import DEPLOYMENT_EVENTS
from engine.listener.perform import Context, perform
from engine.listener.state import DeploymentState, Phase, evolve
from engine.ports import Manifest, Ports
from engine.runtime.machine import Act, Decision


class ListenerMachine:
    """Brings a deployment of the control plane to its LGP and Secret."""

    name = "listener"
    stream_prefix = "deployment/"
    events = DEPLOYMENT_EVENTS
    initial = DeploymentState()

    def __init__(self, config: ListenerConfig) -> None:
        self.config = config

    def evolve(self, state: DeploymentState, event: Event, at: datetime) -> DeploymentState:
        return evolve(state, event, at)

    def decide(self, state: DeploymentState, now: datetime) -> Decision:
        return decide(state, now, self.config)

    def namespace(self, state: DeploymentState) -> str:
        return state.namespace

    def manifests(self, state: DeploymentState) -> list[Manifest]:
        if state.deletion is not None:
            return []
        if state.revision is not None and state.revision.phase is Phase.DEPLOY_FAILED:
            restored = predecessor_manifest(state, self.config)
            if restored is not None:
                return [restored]
        if state.revision is not None and state.revision.secret:
            return [desired_manifest(state, self.config)]
        placed = placed_manifest(state, self.config)
        return [] if placed is None else [placed]

    def digests(self, state: DeploymentState) -> frozenset[str]:
        before = (placed_manifest(state, self.config), predecessor_manifest(state, self.config))
        return frozenset(digest(manifest) for manifest in (*self.manifests(state), *filter(None, before)))

    def perform(self, act: Act, state: DeploymentState, ports: Ports) -> Sequence[Event]:
        return perform(act, Context(state, ports, self.config))
