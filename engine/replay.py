"""Replay of a log: the same events must give the same states, decisions and manifests. Pure, except for reads.

A replay folds every stream event by event, with the configuration that was in force at that position
(`ConfigurationRecorded`). It compares what the current code decides with what the log says was done:

- Each event caused by an act must match an act that the current code would choose at that point: the name of the act,
  and its revision, reason and status. Otherwise there is a *divergence*.
- The digests of manifests that the log recorded at their applies must be digests of manifests that the current code
  makes.

The log does not record when an act was decided. So the replay collects the acts of every state since the events of the
previous act; events of other actors may have come in between. There are two tolerances: the clocks of a worker and of
the log differ (SKEW), and while processes are replaced, some still decide with the previous configuration (CHANGEOVER).

The transcript is canonical JSON: one line per event, then one line per stream with its final state and manifests. So
two replays of one log can be compared byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from engine.dataplane.events import DATA_PLANE_EVENTS, ConfigurationRecorded
from engine.digests import canonical, digest
from engine.errors import AgentplaneError
from engine.event import Event, JsonObject, Record
from engine.listener.config import ListenerConfig
from engine.listener.events import (
    EndpointNotPublished,
    EndpointPublished,
    HealthChecked,
    LgpAdopted,
    LgpApplied,
    LgpRejected,
    RevisionDeployed,
    RevisionFailed,
    SecretsApplied,
    SecretsPruned,
    StatusReported,
    StatusReportRejected,
)
from engine.listener.machine import ListenerMachine
from engine.log.contract import EventLog
from engine.names import DATA_PLANE_PREFIX
from engine.operator.config import OperatorConfig
from engine.operator.events import AutoscalerUnhealthy, LgpStatusApplied, ObjectRejected, ObjectsApplied, ObjectsPruned
from engine.operator.machine import OperatorMachine
from engine.runtime.backoff import ActDeferred, ActRefused
from engine.runtime.machine import Act, AnyMachine, Decision, Done, Wait
from engine.runtime.values import Value, to_json


class ReplayError(AgentplaneError):
    """The log cannot be replayed: it lacks events or a configuration."""


@dataclass(frozen=True, slots=True)
class _Component:
    """How to build the machine of one component from its recorded configuration."""

    machine: type[ListenerMachine] | type[OperatorMachine]
    build: Callable[[JsonObject], AnyMachine]


COMPONENTS: Mapping[str, _Component] = {
    ListenerMachine.name: _Component(
        ListenerMachine, lambda config: ListenerMachine(ListenerConfig.model_validate(config))
    ),
    OperatorMachine.name: _Component(
        OperatorMachine, lambda config: OperatorMachine(OperatorConfig.model_validate(config))
    ),
}

SKEW = timedelta(seconds=5)
"""How far the clock of a worker may be ahead of the log's clock."""
CHANGEOVER = timedelta(minutes=10)
"""How long a process may still use the configuration before the one that was recorded last."""


def _same(*fields: str) -> Callable[[Event, Act], bool]:
    """Return the check whether an event and an act are equal in those of `fields` that the act has."""
    return lambda event, act: all(getattr(event, f) == getattr(act, f) for f in fields if hasattr(act, f))


Match = Callable[[Any, Any], bool]
"""Whether an event can come from an act."""

MATCHES: Mapping[type[Event], Match] = {
    SecretsApplied: _same("revision_id"),
    LgpAdopted: _same("revision_id"),
    LgpApplied: _same("revision_id", "manifest_digest"),
    LgpRejected: _same("revision_id"),
    HealthChecked: _same("revision_id", "url", "attempt"),
    RevisionDeployed: _same("revision_id"),
    RevisionFailed: _same("revision_id", "reason", "message"),
    SecretsPruned: lambda event, act: event.kept == act.keep,
    StatusReported: _same("subject", "id", "status"),
    StatusReportRejected: _same("subject", "id", "status"),
    EndpointPublished: _same("url"),
    EndpointNotPublished: _same("url"),
    ObjectsApplied: lambda event, act: {str(applied.key) for applied in event.objects} <= set(act.keys),
    ObjectRejected: lambda event, act: str(event.key) in act.keys,
    ObjectsPruned: lambda event, act: event.everything or event.objects == act.keys,
    AutoscalerUnhealthy: lambda event, act: str(event.key) in act.keys,
    LgpStatusApplied: _same("digest"),
    ActDeferred: lambda event, act: event.act == act.name,
    ActRefused: lambda event, act: event.act == act.name,
}
"""Class of events → the check whether such an event can come from an act. Classes without a check report what the
outside world answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A point where the current code would not do what the log says was done."""

    stream: str
    version: int
    problem: str


@dataclass(slots=True)
class Replay:
    """The result of a replay."""

    events: int = 0
    streams: int = 0
    manifests: int = 0
    """Number of manifests of the final states."""
    checked: int = 0
    """Number of acts and manifest digests that were compared with the log."""
    divergences: list[Divergence] = field(default_factory=list)
    transcript: list[bytes] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Digest of the whole transcript: equal for equal replays."""
        return digest([line.decode() for line in self.transcript])


@dataclass(slots=True)
class _Stream:
    component: str
    state: Value
    version: int = 0
    at: datetime | None = None
    """When the last event happened (UTC)."""
    acts: set[Act] = field(default_factory=set)
    """Acts that the current code decided since the events of the previous act."""
    digests: set[str] = field(default_factory=set)
    """Digests of the manifests of the states since the events of the previous act."""
    batch: tuple[str | None, datetime, int] | None = None
    """Cause and time of the events of one act, and the version of the next event of that act."""
    batch_acts: set[Act] = field(default_factory=set)
    """Acts that may have caused the events of the batch."""
    batch_digests: set[str] = field(default_factory=set)
    """Digests of manifests that the act of the batch could have applied."""


@dataclass(slots=True)
class _Configured:
    """The machines of one component, for the current and the previous configuration."""

    machine: AnyMachine
    since: datetime
    before: AnyMachine | None = None

    def in_force(self, at: datetime) -> list[AnyMachine]:
        """Return the machines that may have decided at `at`."""
        return [self.machine, self.before] if self.before and at - self.since <= CHANGEOVER else [self.machine]


class Replayer:
    """Folds records in the order of their positions, and compares them with the decisions of the current code."""

    def __init__(self) -> None:
        self._components: dict[str, _Configured] = {}
        self._streams: dict[str, _Stream] = {}
        self._result = Replay()

    def feed(self, record: Record) -> None:
        """Fold one record.

        Raises FutureEvent for an event that this program does not know, ReplayError if the log lacks events or a
        configuration.
        """
        self._result.events += 1
        if record.stream.startswith(DATA_PLANE_PREFIX):
            self._configure(DATA_PLANE_EVENTS.decode(record), record.at)
            self._note(record, None, None)
            return
        stream = self._stream_of(record.stream)
        if record.version != stream.version + 1:
            raise ReplayError(
                f"{record.stream}: version {record.version} follows version {stream.version}, so events are missing; "
                "if they were archived, import the archives together with this log"
            )
        configured = self._configured(stream.component)
        machine = configured.machine
        event = machine.events.decode(record)
        for decider in configured.in_force(record.at):
            self._decide_until(record.at + SKEW, stream, decider)
        if record.actor == machine.name:
            self._compare(record, event, stream)
        stream.state = machine.evolve(stream.state, event, record.at)
        stream.at, stream.version = record.at, record.version
        self._note(record, stream.state, machine.decide(stream.state, record.at))

    def finish(self) -> Replay:
        """Add the final state and manifests of every stream; return the result."""
        for name, stream in sorted(self._streams.items()):
            manifests = self._configured(stream.component).machine.manifests(stream.state)
            self._result.manifests += len(manifests)
            final = {"stream": name, "state": to_json(stream.state), "manifests": manifests}
            self._result.transcript.append(canonical(final))
        self._result.streams = len(self._streams)
        return self._result

    def machines(self) -> dict[str, AnyMachine]:
        """Return the machines with the last configuration, by stream prefix."""
        return {known.machine.stream_prefix: known.machine for known in self._components.values()}

    def _configure(self, event: Event, at: datetime) -> None:
        if isinstance(event, ConfigurationRecorded):
            known = self._components.get(event.component)
            machine = COMPONENTS[event.component].build(event.config)
            self._components[event.component] = _Configured(machine, at, known.machine if known else None)

    def _stream_of(self, name: str) -> _Stream:
        if name not in self._streams:
            component = next((c for c, made in COMPONENTS.items() if name.startswith(made.machine.stream_prefix)), None)
            if component is None:
                raise ReplayError(
                    f"stream {name!r} belongs to no component that this version of agentplane knows; upgrade agentplane"
                )
            self._streams[name] = _Stream(component=component, state=COMPONENTS[component].machine.initial)
        return self._streams[name]

    def _configured(self, component: str) -> _Configured:
        if component not in self._components:
            raise ReplayError(
                f"the log holds events of the {component} but no configuration of it before them; "
                "export the data plane's own stream too, from its first event"
            )
        return self._components[component]

    def _decide_until(self, end: datetime, stream: _Stream, machine: AnyMachine) -> None:
        """Collect the acts that the machine decides for the current state, from the last event to `end`."""
        now = stream.at or end
        while True:
            decision = machine.decide(stream.state, now)
            if isinstance(decision, Act):
                stream.acts.add(decision)
                stream.digests |= machine.digests(stream.state)
            if not (isinstance(decision, Wait) and now < decision.until <= end):
                break
            now = decision.until
        latest = machine.decide(stream.state, end)
        if isinstance(latest, Act):
            stream.acts.add(latest)
            stream.digests |= machine.digests(stream.state)

    def _compare(self, record: Record, event: Event, stream: _Stream) -> None:
        """Compare an event of an act with the acts that the current code decides."""
        if (record.cause, record.at, record.version) != stream.batch:
            self._result.checked += 1
            stream.batch_acts = {act for act in stream.acts if act.name == record.cause}
            if not stream.batch_acts:
                decided = ", ".join(sorted({act.name for act in stream.acts})) or "no act"
                self._diverge(
                    record, f"{record.type} was caused by {record.cause}, but the current code decides {decided}"
                )
            # This act may have made earlier decisions obsolete, so the collection starts again.
            stream.batch_digests = stream.digests
            stream.acts, stream.digests = set(), set()
        stream.batch = (record.cause, record.at, record.version + 1)
        self._compare_content(record, event, stream.batch_acts)
        self._compare_digests(record, event, stream.batch_digests)

    def _compare_content(self, record: Record, event: Event, acts: set[Act]) -> None:
        matches = MATCHES.get(type(event))
        if matches is None or not acts:
            return
        self._result.checked += 1
        if not any(matches(event, act) for act in acts):
            decided = "; ".join(sorted(str(described(act)) for act in acts))
            self._diverge(record, f"{record.type} has {record.data}, but the current code decides {decided}")

    def _compare_digests(self, record: Record, event: Event, allowed: set[str]) -> None:
        recorded = applied_digests(event)
        self._result.checked += len(recorded)
        for missing in sorted(recorded - allowed):
            self._diverge(
                record, f"{record.type} has a manifest of digest {missing}, which the current code does not make"
            )

    def _diverge(self, record: Record, problem: str) -> None:
        self._result.divergences.append(Divergence(stream=record.stream, version=record.version, problem=problem))

    def _note(self, record: Record, state: Value | None, decision: Decision | None) -> None:
        self._result.transcript.append(
            canonical(
                {
                    "position": record.position,
                    "stream": record.stream,
                    "version": record.version,
                    "state": None if state is None else digest(to_json(state)),
                    "decision": None if decision is None else described(decision),
                }
            )
        )


def configured(events: EventLog) -> dict[str, AnyMachine]:
    """Return the machines with the last configuration in the log, by stream prefix."""
    replayer = Replayer()
    for stream in events.streams(DATA_PLANE_PREFIX):
        for record in events.read(stream):
            replayer.feed(record)
    return replayer.machines()


def applied_digests(event: Event) -> set[str]:
    """Return the digests of the manifests that were sent to the API server according to an event."""
    match event:
        case LgpApplied(manifest_digest=applied):
            return {applied}
        case ObjectsApplied(objects=objects):
            return {applied.digest for applied in objects}
        case ObjectRejected(digest=rejected):
            return {rejected}
        case _:
            return set()


def described(decision: Decision) -> JsonObject:
    """Return a decision as a JSON object."""
    match decision:
        case Act():
            return {"act": decision.name, **decision.model_dump(mode="json")}
        case Wait(until, reason):
            return {"wait": until.isoformat(), "reason": reason}
        case Done(reason):
            return {"done": reason}


def replay(records: Iterable[Record]) -> Replay:
    """Replay records, which are in the order of their positions. Raises FutureEvent, ReplayError."""
    replayer = Replayer()
    for record in records:
        replayer.feed(record)
    return replayer.finish()
