"""Small events and a machine over them, for the tests of the event log and of the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from engine.event import Event, JsonObject, Registry
from engine.kubernetes.namespace_lease import NamespaceLeases
from engine.ports import Health, Manifest, Ports
from engine.runtime.backoff import ActDeferred, ActRefused
from engine.runtime.machine import Act, Decision, Done, Wait
from engine.runtime.values import Value, replace

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Noted(Event):
    """A text was noted; the machine ignores it."""

    text: str


class Asked(Event):
    """Steps were requested, to begin at `not_before`."""

    steps: int
    not_before: datetime | None = None


class Stepped(Event):
    """One step was done."""

    number: int


def upcast_v1_v2(data: JsonObject) -> JsonObject:
    return {"title": data["name"]}


def upcast_v2_v3(data: JsonObject) -> JsonObject:
    return {**data, "by": "nobody"}


class Renamed(Event):
    """Version 1 held `name`, version 2 holds `title`, version 3 holds `by` as well."""

    schema_version = 3
    upcasts = {1: upcast_v1_v2, 2: upcast_v2_v3}

    title: str
    by: str


@dataclass(frozen=True, kw_only=True)
class Work(Value):
    """Steps to do and steps done."""

    wanted: int = 0
    done: int = 0
    not_before: datetime | None = None
    retry_at: datetime | None = None
    refused: bool = False
    titles: tuple[str, ...] = ()


class Step(Act):
    """Do one step."""

    number: int


class Config(BaseModel):
    """Nothing to configure."""


class Worker:
    """A machine that does the requested steps, one act per step, and records them in `steps`."""

    name = "worker"
    stream_prefix = "work/"
    events = Registry(Noted, Asked, Stepped, Renamed, ActDeferred, ActRefused)
    initial = Work()
    config = Config()

    def __init__(self, step: Callable[[Step, Ports], None] | None = None) -> None:
        self.steps: list[int] = []
        self.folded = 0
        self._step = step
        self._mutex = threading.Lock()

    def evolve(self, state: Work, event: Event, at: datetime) -> Work:
        self.folded += 1
        match event:
            case Asked(steps=steps, not_before=not_before):
                return replace(state, wanted=state.wanted + steps, not_before=not_before, refused=False)
            case Stepped(number=number):
                return replace(state, done=number, retry_at=None)
            case ActDeferred(retry_at=retry_at):
                return replace(state, retry_at=retry_at)
            case ActRefused():
                return replace(state, refused=True)
            case Renamed(title=title):
                return replace(state, titles=(*state.titles, title))
            case _:
                return state

    def decide(self, state: Work, now: datetime) -> Decision:
        if state.done >= state.wanted or state.refused:
            return Done("nothing to do")
        for until in (state.not_before, state.retry_at):
            if until is not None and now < until:
                return Wait(until, "not yet")
        return Step(number=state.done + 1)

    def namespace(self, state: Work) -> str:
        return "agents"

    def manifests(self, state: Work) -> list[Manifest]:
        return []

    def digests(self, state: Work) -> frozenset[str]:
        return frozenset()

    def perform(self, act: Act, state: Work, ports: Ports) -> Sequence[Event]:
        assert isinstance(act, Step)
        with self._mutex:
            self.steps.append(act.number)
        if self._step is not None:
            self._step(act, ports)
        return [Stepped(number=act.number)]


class NoHealth:
    def check(self, url: str) -> Health:
        return Health(ok=False, detail="there is nothing to check")


def ports(clock: Any, chance: float = 1.0) -> Ports:
    """Return ports without a cluster and a control plane."""
    nothing: Any = None
    return Ports(
        control_plane=nothing,
        cluster=nothing,
        health=NoHealth(),
        clock=clock,
        keep_lock=lambda: None,
        digest=lambda value: "",
        api_key="",
        random=lambda: chance,
    )


def no_leases() -> NamespaceLeases:
    """Return the leases of a data plane that watches no namespace."""
    nothing: Any = None
    return NamespaceLeases(nothing, nothing, "", (), timedelta())


def notes(*texts: str) -> list[Event]:
    return [Noted(text=text) for text in texts]
