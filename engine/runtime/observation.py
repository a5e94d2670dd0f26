"""The contract of an observer: which kinds a component watches, and what the cluster adds to the component's log.

An *observer* keeps a projection of the cluster that can be rebuilt from lists and watches. Each component has one
(`engine/operator/observation`, `engine/listener/observation`). One thread uses it, that of the observation loop
(`engine/runtime/observation_loop.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from engine import names
from engine.event import Event
from engine.ports import Manifest
from engine.runtime.machine import Machine, S

SOON = 0.2
"""Seconds that a comparison waits for more changes: a rollout changes a status many times in a row."""

AT_ONCE = 0.0

Affected = Iterable[tuple[str, float]]
"""Streams that a change affects, each with the seconds that its comparison may wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One watch in each namespace: the objects of a kind that match a label selector."""

    api_version: str
    kind: str
    labels: str = ""
    """Label selector; empty for every object."""


LGPS = Watch(api_version=names.LGP_API_VERSION, kind=names.LGP_KIND)
SECRETS = Watch(api_version="v1", kind="Secret", labels=f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The events that the cluster adds to a stream."""

    certain: tuple[Event, ...] = ()
    """May be appended at once."""
    unconfirmed: tuple[Event, ...] = ()
    """May be the echo of our own write, or come from a watch that lags behind: to be confirmed by fresh reads."""


class Observer(Protocol[S]):
    """One component's observer."""

    @property
    def machine(self) -> Machine[S]: ...

    def watches(self) -> tuple[Watch, ...]:
        """Return what is watched in every namespace of the data plane."""
        ...

    def external_watches(self) -> tuple[tuple[Watch, str], ...]:
        """Return what is watched in one other namespace, with that namespace."""
        ...

    def extra_watches(self, state: S) -> Iterator[tuple[Watch, str]]:
        """Yield the watches, with their namespaces, that `state` calls for beyond `watches`."""
        ...

    def on_change(self, watch: Watch, namespace: str, manifest: Manifest, *, exists: bool) -> Affected:
        """Take in an object as it is now, or (`exists` is False) its deletion; return the affected streams."""
        ...

    def on_synced(self, watch: Watch, namespace: str, streams: Callable[[str], list[str]]) -> Affected:
        """Take in that every object of a watch is known now; return the affected streams.

        `streams` returns the log's streams that begin with a prefix.
        """
        ...

    def observe(self, stream: str, state: S) -> Observation:
        """Return the events that the cluster adds to `state`. Raises ClusterUnavailable."""
        ...

    def confirm(self, stream: str, state: S, unconfirmed: Iterable[Event]) -> None:
        """Read the objects of unconfirmed events afresh. Raises ClusterUnavailable, ObjectRefused."""
        ...


AnyObserver: TypeAlias = Observer[Any]
"""The observer of some component."""
