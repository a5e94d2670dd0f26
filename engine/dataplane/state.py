"""The state of a data plane itself: the fold of its own stream. Everything that changes the state is in this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from engine.runtime.dispatch import Handlers, on
from engine.runtime.values import Value, replace


@dataclass(frozen=True, kw_only=True)
class DataPlaneState(Value):
    """What is known of the data plane itself."""

    configurations: dict[str, str] = field(default_factory=dict)
    """Component → identity of the configuration that was recorded last, which is the one in force."""
    spread: dict[str, str] = field(default_factory=dict)
    """Component → the same identity, once the component's streams were marked dirty for it."""
    published: str = ""
    """Version of agentplane that was reported to the control plane last."""
    poll_failure: str | None = None
    """Why polling fails; None when it works."""
    refusal: str | None = None
    """Why the control plane's listener and our settings do not fit; None when they do."""
    leases: dict[str, str] = field(default_factory=dict)
    """Watched namespace → name of the other data plane that leases it; empty where this data plane does."""
    removing: str | None = None
    """Person who removes the data plane; None when nobody does."""
    guarded: tuple[str, ...] = ()
    """Deployments whose deletion waits for a person."""
    released: tuple[str, ...] = ()
    """Deployments whose deletion a person allowed."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Resource that is skipped → field and problem."""


def evolve(state: DataPlaneState, event: Event, at: datetime) -> DataPlaneState:
    """Return the state after `event`, which happened `at` (UTC)."""
    return HANDLERS.apply(state, event, at)


def _without(entries: Mapping[str, str], key: str) -> dict[str, str]:
    return {known: value for known, value in entries.items() if known != key}


def _configuration_recorded(state: DataPlaneState, event: ConfigurationRecorded, at: datetime) -> DataPlaneState:
    recorded = {**state.configurations, event.component: identity(event.digest, event.program)}
    return replace(state, configurations=recorded, spread=_without(state.spread, event.component))


def _configuration_spread(state: DataPlaneState, event: ConfigurationSpread, at: datetime) -> DataPlaneState:
    return replace(state, spread={**state.spread, event.component: identity(event.digest, event.program)})


def _listener_published(state: DataPlaneState, event: ListenerPublished, at: datetime) -> DataPlaneState:
    return replace(state, refusal=None, published=event.version)


def _listener_refused(state: DataPlaneState, event: ListenerRefused, at: datetime) -> DataPlaneState:
    return replace(state, refusal=event.reason)


def _namespace_leased(state: DataPlaneState, event: NamespaceLeased, at: datetime) -> DataPlaneState:
    return replace(state, leases={**state.leases, event.namespace: ""})


def _namespace_refused(state: DataPlaneState, event: NamespaceRefused, at: datetime) -> DataPlaneState:
    return replace(state, leases={**state.leases, event.namespace: event.holder})


def _namespace_left(state: DataPlaneState, event: NamespaceLeft, at: datetime) -> DataPlaneState:
    return replace(state, leases=_without(state.leases, event.namespace))


def _removal_started(state: DataPlaneState, event: RemovalStarted, at: datetime) -> DataPlaneState:
    return replace(state, removing=event.by)


def _removal_cancelled(state: DataPlaneState, event: RemovalCancelled, at: datetime) -> DataPlaneState:
    return replace(state, removing=None)


def _poll_failed(state: DataPlaneState, event: PollFailed, at: datetime) -> DataPlaneState:
    return replace(state, poll_failure=event.reason)


def _poll_recovered(state: DataPlaneState, event: PollRecovered, at: datetime) -> DataPlaneState:
    return replace(state, poll_failure=None)


def _resource_rejected(state: DataPlaneState, event: ResourceRejected, at: datetime) -> DataPlaneState:
    return replace(state, rejected={**state.rejected, event.resource: f"{event.field}: {event.problem}"})


def _resource_accepted(state: DataPlaneState, event: ResourceAccepted, at: datetime) -> DataPlaneState:
    return replace(state, rejected=_without(state.rejected, event.resource))


def _guard_tripped(state: DataPlaneState, event: DeletionGuardTripped, at: datetime) -> DataPlaneState:
    return replace(state, guarded=event.deployments)


def _guard_released(state: DataPlaneState, event: DeletionGuardReleased, at: datetime) -> DataPlaneState:
    released = tuple(sorted({*state.released, *event.deployments}))
    return replace(state, guarded=(), released=released)


HANDLERS = Handlers[DataPlaneState](
    on(ConfigurationRecorded, _configuration_recorded),
    on(ConfigurationSpread, _configuration_spread),
    on(ListenerPublished, _listener_published),
    on(ListenerRefused, _listener_refused),
    on(NamespaceLeased, _namespace_leased),
    on(NamespaceRefused, _namespace_refused),
    on(NamespaceLeft, _namespace_left),
    on(RemovalStarted, _removal_started),
    on(RemovalCancelled, _removal_cancelled),
    on(PollFailed, _poll_failed),
    on(PollRecovered, _poll_recovered),
    on(ResourceRejected, _resource_rejected),
    on(ResourceAccepted, _resource_accepted),
    on(DeletionGuardTripped, _guard_tripped),
    on(DeletionGuardReleased, _guard_released),
)
"""What each class of events changes in the state."""
