"""Events of a data plane itself: stream `dataplane/<listener id>` (`engine/operator` for an operator that runs alone).

Polling appends two events about failures only: PollFailed when it starts to fail, PollRecovered when it works again.
"""

from __future__ import annotations

from engine.event import Event, JsonObject, Registry


class ConfigurationRecorded(Event):
    """The configuration of one component that is in force from here on: what its decisions depend on besides events."""

    component: str
    """`listener` or `operator`."""
    digest: str
    """Digest of `config`."""
    config: JsonObject
    """Holds no secret."""
    program: str = ""
    """Digest of the program that decides with the configuration; empty in older logs."""


class ConfigurationSpread(Event):
    """Every stream of that component was marked dirty after this configuration was recorded."""

    component: str
    digest: str
    program: str = ""


def identity(digest: str, program: str) -> str:
    """Return the identity of a configuration together with the program that decides with it."""
    return f"{digest}:{program}"


class ListenerPublished(Event):
    """The version of agentplane was reported to the control plane."""

    version: str


class ListenerRefused(Event):
    """The control plane's listener and our settings do not fit; nothing is polled until they do."""

    reason: str


class NamespaceLeased(Event):
    """This data plane leases the namespace from here on; the namespace's streams were marked dirty."""

    namespace: str


class NamespaceRefused(Event):
    """Another data plane leases the namespace: nothing is written there until that lease ends or is released."""

    namespace: str
    holder: str


class NamespaceLeft(Event):
    """The namespace is no longer watched."""

    namespace: str


class RemovalStarted(Event):
    """A person removes the data plane, its Agent Servers first: nothing is polled until the removal is cancelled."""

    by: str


class RemovalCancelled(Event):
    """A person cancelled the removal: the data plane stays, and polls again."""

    by: str


class PollFailed(Event):
    """Polling stopped working."""

    reason: str


class PollRecovered(Event):
    """Polling works again."""


class ResourceRejected(Event):
    """A resource of the control plane is invalid, and is skipped; the other resources are not affected."""

    resource: str
    field: str
    problem: str


class ResourceAccepted(Event):
    """A resource that was skipped is valid now, or is no longer listed."""

    resource: str


class DeletionGuardTripped(Event):
    """More deployments would be deleted at once than the set share: their deletion waits for a person."""

    deployments: tuple[str, ...]
    live: int


class DeletionGuardReleased(Event):
    """A person allowed the deletion of these deployments. Without any: fewer would be deleted at once by now."""

    deployments: tuple[str, ...]
    by: str


DATA_PLANE_EVENTS = Registry(
    ConfigurationRecorded,
    ConfigurationSpread,
    ListenerPublished,
    ListenerRefused,
    NamespaceLeased,
    NamespaceRefused,
    NamespaceLeft,
    RemovalStarted,
    RemovalCancelled,
    PollFailed,
    PollRecovered,
    ResourceRejected,
    ResourceAccepted,
    DeletionGuardTripped,
    DeletionGuardReleased,
)
