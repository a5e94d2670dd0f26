"""The state of a data plane itself: what its own stream adds up to. Everything that changes it lives in this file."""

from __future__ import annotations

from datetime import datetime

from engine.dataplane.events import (
    ConfigurationRecorded,
    ConfigurationSpread,
    DeletionGuardReleased,
    DeletionGuardTripped,
    ListenerPublished,
    ListenerRefused,
    NamespaceLeased,
    NamespaceLeft,
    NamespaceRefused,
    PollFailed,
    PollRecovered,
    RemovalCancelled,
    RemovalStarted,
    ResourceAccepted,
    ResourceRejected,
    identity,
)
from engine.event import Event
from engine.runtime.machine import State


class DataPlaneState(State):
    """What the engine's stream adds up to."""

    configurations: dict[str, str] = {}
    """Half → identity of the configuration recorded last, the one in force."""
    spread: dict[str, str] = {}
    """Half → the same, once its streams were marked dirty for it."""
    published: str = ""
    """Version that the control plane was told last."""
    poll_failure: str | None = None
    refusal: str | None = None
    leases: dict[str, str] = {}
    """Watched namespace → which other data plane holds it; empty where we do."""
    removing: str | None = None
    """Who removes the data plane, if anybody does."""
    guarded: tuple[str, ...] = ()
    """Deployments whose deletion waits for a person."""
    released: tuple[str, ...] = ()
    """Deployments whose deletion a person has allowed."""
    rejected: dict[str, str] = {}
    """Resource that is being skipped → field and problem."""


def evolve(state: DataPlaneState, event: Event, at: datetime) -> DataPlaneState:
    """Fold one event."""
    match event:
        case ConfigurationRecorded(component=component, digest=digest, program=program):
            spread = {name: known for name, known in state.spread.items() if name != component}
            recorded = {**state.configurations, component: identity(digest, program)}
            return state.model_copy(update={"configurations": recorded, "spread": spread})
        case ConfigurationSpread(component=component, digest=digest, program=program):
            return state.model_copy(update={"spread": {**state.spread, component: identity(digest, program)}})
        case ListenerPublished(version=version):
            return state.model_copy(update={"refusal": None, "published": version})
        case ListenerRefused(reason=reason):
            return state.model_copy(update={"refusal": reason})
        case NamespaceLeased(namespace=namespace):
            return state.model_copy(update={"leases": {**state.leases, namespace: ""}})
        case NamespaceRefused(namespace=namespace, holder=holder):
            return state.model_copy(update={"leases": {**state.leases, namespace: holder}})
        case NamespaceLeft(namespace=left):
            leases = {namespace: holder for namespace, holder in state.leases.items() if namespace != left}
            return state.model_copy(update={"leases": leases})
        case RemovalStarted(by=person):
            return state.model_copy(update={"removing": person})
        case RemovalCancelled():
            return state.model_copy(update={"removing": None})
        case PollFailed(reason=reason):
            return state.model_copy(update={"poll_failure": reason})
        case PollRecovered():
            return state.model_copy(update={"poll_failure": None})
        case ResourceRejected(resource=resource, field=field, problem=problem):
            return state.model_copy(update={"rejected": {**state.rejected, resource: f"{field}: {problem}"}})
        case ResourceAccepted(resource=accepted):
            rejected = {name: problem for name, problem in state.rejected.items() if name != accepted}
            return state.model_copy(update={"rejected": rejected})
        case DeletionGuardTripped(deployments=deployments):
            return state.model_copy(update={"guarded": deployments})
        case DeletionGuardReleased(deployments=deployments):
            released = tuple(sorted({*state.released, *deployments}))
            return state.model_copy(update={"guarded": (), "released": released})
        case _:
            return state
