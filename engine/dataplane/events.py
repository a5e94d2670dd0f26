"""Events of a data plane itself: stream `dataplane/<listener id>` (`engine/operator` for an operator that runs alone).

Polling leaves edges only: one PollFailed when it starts to fail, one PollRecovered when it works again.
"""

from __future__ import annotations

from typing import Any

from engine.event import Event, Registry


class ConfigurationRecorded(Event):
    """What the decisions of one component depend on besides events, from here on; free of secrets."""

    component: str
    """`listener` or `operator`."""
    digest: str
    """Of `config`."""
    config: dict[str, Any]
    program: str = ""
    """Digest of the program that decides with it; empty in logs from before it was recorded."""


class ConfigurationSpread(Event):
    """Every stream of that component was marked dirty after this configuration was recorded."""

    component: str
    digest: str
    program: str = ""


def identity(digest: str, program: str) -> str:
    """Return what tells one configuration, as decided with by one program, from another."""
    return f"{digest}:{program}"


class ListenerPublished(Event):
    """The control plane was told which version runs."""

    version: str


class ListenerRefused(Event):
    """The control plane's listener and our settings do not fit; nothing is polled until they do."""

    reason: str


class NamespaceLeased(Event):
    """The namespace is ours from here on; its streams were marked dirty."""

    namespace: str


class NamespaceRefused(Event):
    """Another data plane holds the namespace: nothing is written there until its lease ends, or is taken over."""

    namespace: str
    holder: str


class NamespaceLeft(Event):
    """The namespace is not watched any more."""

    namespace: str


class RemovalStarted(Event):
    """A person removes the data plane, its Agent Servers first: nothing is polled until that is taken back."""

    by: str


class RemovalCancelled(Event):
    """The data plane stays, and polls again."""

    by: str


class PollFailed(Event):
    """Polling stopped working."""

    reason: str


class PollRecovered(Event):
    """Polling works again."""


class ResourceRejected(Event):
    """A deployment could not be understood and was skipped; the others went on."""

    resource: str
    field: str
    problem: str


class ResourceAccepted(Event):
    """A deployment that was skipped is understood now, or is no longer listed."""

    resource: str


class DeletionGuardTripped(Event):
    """More deployments would go at once than the set share: nothing is deleted until a person releases the guard."""

    deployments: tuple[str, ...]
    live: int


class DeletionGuardReleased(Event):
    """A person let the deletions of these deployments go on; without any, fewer would go at once by now."""

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
