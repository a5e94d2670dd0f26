"""What the watcher asks of each component: which kinds to watch, and what the cluster adds to the log.

An *observer* keeps a projection of the cluster that can be rebuilt from lists and watches.
One thread, the watcher's core, uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from engine import names
from engine.event import Event
from engine.ports import Manifest
from engine.runtime.machine import Machine

SOON = 0.2
"""Seconds that a change is left to be joined by the next one: a rollout changes a status many times in a row."""

AT_ONCE = 0.0

Streams = Iterable[tuple[str, float]]
"""Streams to be judged, each with the seconds that it may wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One watch in each namespace."""

    api_version: str
    kind: str
    labels: str = ""


LGPS = Watch(api_version=names.LGP_API_VERSION, kind=names.LGP_KIND)
SECRETS = Watch(api_version="v1", kind="Secret", labels=f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the cluster has to add to the log."""

    certain: tuple[Event, ...] = ()
    unconfirmed: tuple[Event, ...] = ()


class Observer(Protocol):
    """What one component sees of the cluster."""

    @property
    def machine(self) -> Machine[Any]: ...

    def watches(self) -> tuple[Watch, ...]:
        """Return what is watched in every namespace."""
        ...

    def external_watches(self) -> tuple[tuple[Watch, str], ...]:
        """Return what is watched in one namespace, which need not be one of ours."""
        ...

    def on_change(self, watched: Watch, namespace: str, manifest: Manifest, *, there: bool) -> Streams:
        """Take in an object as it is now, or (not `there`) that it is gone; return whom it concerns."""
        ...

    def on_synced(self, watched: Watch, namespace: str, streams: Callable[[str], list[str]]) -> Streams:
        """Take in that every object of a kind is known now. `streams` lists the log's streams by prefix."""
        ...

    def extra_watches(self, state: Any) -> Iterator[tuple[Watch, str]]:
        """Yield watches (and namespaces) that `state` calls for beyond `watches`."""
        ...

    def observe(self, stream: str, state: Any) -> Observation:
        """Return what the cluster adds to `state`. Raises ClusterUnavailable."""
        ...

    def confirm(self, stream: str, state: Any, unconfirmed: Iterable[Event]) -> None:
        """Read afresh what the suspected events speak of. Raises ClusterUnavailable."""
        ...
