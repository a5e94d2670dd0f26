"""Events of a data plane itself: stream `engine/<listener id>` (`engine/operator` for an operator that runs alone).

Polling leaves edges only: one PollFailed when it starts to fail, one PollRecovered when it works again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from engine.event import Event, Registry
from engine.machine import State


class ConfigurationRecorded(Event):
    """What the decisions of one half depend on besides events, from here on; free of secrets."""

    half: str
    """`listener` or `operator`."""
    digest: str
    """Of `config`."""
    config: dict[str, Any]
    program: str = ""
    """Digest of the program that decides with it; empty in logs from before it was recorded."""


class ConfigurationSpread(Event):
    """Every stream of that half was marked dirty after this configuration was recorded."""

    half: str
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


class NamespaceClaimed(Event):
    """The namespace is ours from here on; its streams were marked dirty."""

    namespace: str


class NamespaceRefused(Event):
    """Another data plane holds the namespace: nothing is written there until its claim ends, or is taken over."""

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


ENGINE_EVENTS = Registry(
    ConfigurationRecorded,
    ConfigurationSpread,
    ListenerPublished,
    ListenerRefused,
    NamespaceClaimed,
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


class EngineState(State):
    """What the engine's stream adds up to."""

    configurations: dict[str, str] = {}
    """Half → identity of the configuration recorded last, the one in force."""
    spread: dict[str, str] = {}
    """Half → the same, once its streams were marked dirty for it."""
    published: str = ""
    """Version that the control plane was told last."""
    poll_failure: str | None = None
    refusal: str | None = None
    claims: dict[str, str] = {}
    """Watched namespace → which other data plane holds it; empty where we do."""
    removing: str | None = None
    """Who removes the data plane, if anybody does."""
    guarded: tuple[str, ...] = ()
    """Deployments whose deletion waits for a person."""
    released: tuple[str, ...] = ()
    """Deployments whose deletion a person has allowed."""
    rejected: dict[str, str] = {}
    """Resource that is being skipped → field and problem."""


def evolve(state: EngineState, event: Event, at: datetime) -> EngineState:
    """Fold one event."""
    match event:
        case ConfigurationRecorded(half=half, digest=digest, program=program):
            spread = {name: known for name, known in state.spread.items() if name != half}
            recorded = {**state.configurations, half: identity(digest, program)}
            return state.model_copy(update={"configurations": recorded, "spread": spread})
        case ConfigurationSpread(half=half, digest=digest, program=program):
            return state.model_copy(update={"spread": {**state.spread, half: identity(digest, program)}})
        case ListenerPublished(version=version):
            return state.model_copy(update={"refusal": None, "published": version})
        case ListenerRefused(reason=reason):
            return state.model_copy(update={"refusal": reason})
        case NamespaceClaimed(namespace=namespace):
            return state.model_copy(update={"claims": {**state.claims, namespace: ""}})
        case NamespaceRefused(namespace=namespace, holder=holder):
            return state.model_copy(update={"claims": {**state.claims, namespace: holder}})
        case NamespaceLeft(namespace=left):
            claims = {namespace: holder for namespace, holder in state.claims.items() if namespace != left}
            return state.model_copy(update={"claims": claims})
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
