"""Queries: which deployments the log has, and what happened to one. Each call reads the log and folds it again.

A stream that this program cannot read to its end (events of a newer program, a lost snapshot) is shown as far as it
was read, with the reason. It does not hide other streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Generic, TypeVar

from engine.dataplane.state import DataPlaneState
from engine.dataplane.stream import DATA_PLANES
from engine.errors import AgentplaneError, FutureEvent
from engine.event import JsonObject, Record
from engine.listener.events import DEPLOYMENT_EVENTS, DeploymentRegistered, LgpAdopted
from engine.listener.machine import ListenerMachine
from engine.listener.state import OPEN, Deletion, DeploymentState
from engine.listener.state import evolve as evolve_deployment
from engine.log.contract import EventLog
from engine.names import deployment_stream, lgp_stream
from engine.operator.events import LGP_EVENTS
from engine.operator.machine import OperatorMachine
from engine.operator.state import Life, OperatorState
from engine.operator.state import evolve as evolve_lgp
from engine.runtime.fold import StreamKind, fold_records
from engine.runtime.values import Value

S = TypeVar("S", bound=Value)

AT_ONCE = 200
"""Number of streams that are read in one round trip."""
MOST_NAMED = 20
"""Number of deployments that an error names."""


class UnknownDeployment(AgentplaneError):
    """No deployment of the log has this name or id."""


class AmbiguousDeployment(AgentplaneError):
    """Several live deployments have this name; only their ids differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSummary:
    """One deployment, or one LGP without a deployment in this log: a row of a table."""

    id: str
    """Id of the deployment; empty for an LGP without a deployment."""
    name: str
    namespace: str
    lgp: str
    status: str
    """Status of the deployment; of an LGP without a deployment, the phase of its life."""
    revision: str
    """Id of the current revision; empty when there is none."""
    phase: str
    """Phase of the current revision; of an LGP without a deployment: AVAILABLE, PROGRESSING or DEGRADED."""
    serving: str
    """Id of the revision that was deployed last."""
    image: str
    since: datetime | None
    """When the current revision entered its phase."""
    reason: str
    """Why the deployment is in this state; empty when there is no problem."""
    paused: bool
    stopped: bool
    """Whether the revision failed and was scaled to zero."""
    deleted: bool
    failed: bool
    """Whether a person should look at the deployment."""


@dataclass(frozen=True, slots=True)
class _Folded(Generic[S]):
    """A stream, as far as it could be read."""

    stream: str
    state: S
    records: list[Record]
    problem: str
    """Why the stream could not be read to its end; empty when it could."""


def deployments(events: EventLog, *, deleted: bool = False) -> list[DeploymentSummary]:
    """Return the deployments of the log, and the LGPs without a deployment, by name; `deleted`: deleted ones too."""
    found = [
        _summarize_deployment(folded)
        for folded in _fold_all(DEPLOYMENTS, events, events.streams(DEPLOYMENTS.prefix))
        if folded.records
    ]
    known = {lgp_stream(summary.namespace, summary.lgp) for summary in found}
    others = [stream for stream in events.streams(LGPS.prefix) if stream not in known]
    found += [_summarize_lgp(folded) for folded in _fold_all(LGPS, events, others) if folded.records]
    return sorted((one for one in found if deleted or not one.deleted), key=lambda one: (one.name, one.id))


# --- folding

DEPLOYMENTS = StreamKind(
    ListenerMachine.name, ListenerMachine.stream_prefix, DEPLOYMENT_EVENTS, ListenerMachine.initial, evolve_deployment
)
LGPS = StreamKind(OperatorMachine.name, OperatorMachine.stream_prefix, LGP_EVENTS, OperatorMachine.initial, evolve_lgp)


def _fold_all(kind: StreamKind[S], events: EventLog, streams: Iterable[str]) -> Iterator[_Folded[S]]:
    for stream, records in _read_all(events, streams):
        yield _fold(kind, events, stream, records)


def _read_all(events: EventLog, streams: Iterable[str]) -> Iterator[tuple[str, list[Record]]]:
    names = iter(streams)
    while some := list(islice(names, AT_ONCE)):
        yield from events.read_many(dict.fromkeys(some, 0)).items()


def _fold(kind: StreamKind[S], events: EventLog, stream: str, records: list[Record]) -> _Folded[S]:
    state, error = fold_records(kind, events, stream, records)
    return _Folded(stream, state, records, "" if error is None else f"{type(error).__name__}: {error}")


# --- deployments


def _summarize_deployment(folded: _Folded[DeploymentState]) -> DeploymentSummary:
    state = folded.state
    revision = state.revision
    phase = revision.phase.value if revision else ""
    refused = any(state.deferrals.refused()) and not state.deleted
    identity = folded.stream.removeprefix(DEPLOYMENTS.prefix)
    return DeploymentSummary(
        id=identity,
        name=state.registration.name or identity,
        namespace=state.namespace,
        lgp=state.lgp.name,
        status=state.status.value,
        revision=revision.id if revision else "",
        phase=phase,
        serving=state.revisions.serving or "",
        image=revision.image if revision else "",
        since=revision.since if revision else state.registration.at,
        reason=folded.problem or reason(state),
        paused=state.paused,
        stopped=state.lgp.applied is not None and state.lgp.applied.stopped and phase == "DEPLOY_FAILED",
        deleted=state.deleted,
        failed=bool(folded.problem) or refused or phase == "DEPLOY_FAILED",
    )


def reason(state: DeploymentState) -> str:
    """Return why a deployment is in its state: the first of refused, deferred, failed, waiting, warning."""
    if state.deleted:
        return state.deletion.reason if state.deletion is not None else ""
    for act, deferral in state.deferrals.refused():
        return f"{act} is refused: {deferral.reason}"
    for act, deferral in state.deferrals:
        return f"{act} fails (attempt {deferral.attempts}): {deferral.reason}"
    if state.deletion is not None:
        return _deletion(state.deletion)
    revision = state.revision
    if revision is None:
        return ""
    if revision.reason:
        return f"{revision.reason}: {revision.message}"
    if revision.phase in OPEN and state.health is not None and not state.health.ok:
        return f"health check {state.health.attempts} failed: {state.health.detail}"
    if state.rollout is not None and (state.rollout.reason or state.rollout.message):
        return ": ".join(filter(None, (state.rollout.reason, state.rollout.message)))
    return state.rollout.warning if state.rollout is not None else ""


def _deletion(deletion: Deletion) -> str:
    finalizers = ", ".join(deletion.finalizers) if not deletion.lgp_gone else ""
    return f"{deletion.reason}; its LGP waits for {finalizers}" if finalizers else deletion.reason


def _data_of(type_: str, records: Iterable[Record]) -> list[JsonObject]:
    return [record.data for record in records if record.type == type_]


def _summarize_lgp(folded: _Folded[OperatorState]) -> DeploymentSummary:
    """Return the summary of an LGP without a deployment, from the operator's stream."""
    state = folded.state
    namespace, _, name = folded.stream.removeprefix(LGPS.prefix).partition("/")
    conditions = {condition["type"]: condition["status"] for condition in state.status.get("conditions", ())}
    phases = (("Degraded", "DEGRADED"), ("Available", "AVAILABLE"), ("Progressing", "PROGRESSING"))
    phase = next((named for kind, named in phases if conditions.get(kind) == "True"), "")
    server = state.lgp.spec.get("serverSpec", {}) if state.lgp else {}
    return DeploymentSummary(
        id="",
        name=name,
        namespace=namespace,
        lgp=name,
        status=state.life.value,
        revision=state.lgp.revision if state.lgp else "",
        phase=phase,
        serving=state.rolled_out.revision if state.rolled_out else "",
        image=str(server.get("image", "")),
        since=state.changed_at,
        reason=folded.problem or state.last_reason,
        paused=False,
        stopped=state.lgp is not None and state.lgp.stopped is not None,
        deleted=state.life in (Life.GONE, Life.PRUNED),
        failed=bool(folded.problem) or phase == "DEGRADED",
    )


def leaves_nothing(events: EventLog, summary: DeploymentSummary) -> bool:
    """Whether a deployment is deleted, and the operator of this log (if there is one) has pruned its LGP's objects."""
    (folded,) = _fold_all(LGPS, events, [lgp_stream(summary.namespace, summary.lgp)])
    return summary.deleted and folded.state.life in (Life.UNKNOWN, Life.PRUNED)


# --- finding


def matching(events: EventLog, wanted: str) -> list[DeploymentSummary]:
    """Return the deployments, deleted ones too, whose id, name or LGP's name is `wanted`."""
    found = [
        _summarize_deployment(_fold(DEPLOYMENTS, events, stream, records))
        for stream, records in _read_all(events, events.streams(DEPLOYMENTS.prefix))
        if _may_be(stream, records, wanted)
    ]
    known = {lgp_stream(summary.namespace, summary.lgp) for summary in found}
    others = [s for s in events.streams(LGPS.prefix) if s.endswith(f"/{wanted}") and s not in known]
    found += [_summarize_lgp(folded) for folded in _fold_all(LGPS, events, others)]
    return [summary for summary in found if wanted in (summary.id, summary.name, summary.lgp)]


def _may_be(stream: str, records: Iterable[Record], wanted: str) -> bool:
    """Whether the stream may be the wanted one, so that it must be folded."""
    if stream == deployment_stream(wanted):
        return True
    names = [data for event in (DeploymentRegistered, LgpAdopted) for data in _data_of(event.__name__, records)]
    return not names or any(wanted in (data.get("name"), data.get("lgp")) for data in names)


def find(events: EventLog, wanted: str, *, one: bool = False) -> DeploymentSummary:
    """Return the deployment whose id, name or LGP's name is `wanted`; of several the newest live one.

    Raises UnknownDeployment; with `one` also AmbiguousDeployment, if several live ones have that name.
    """
    found = matching(events, wanted)
    if not found:
        known = sorted({summary.name for summary in deployments(events)})
        raise UnknownDeployment(f"the log has no deployment {wanted!r} ({_named(known)})")
    live = [summary for summary in found if not summary.deleted]
    if one and len(live) > 1:
        ids = ", ".join(f"{summary.id or summary.lgp} (namespace {summary.namespace})" for summary in live)
        raise AmbiguousDeployment(f"{len(live)} live deployments are named {wanted!r}: {ids}; give the id of one")
    return max(found, key=lambda summary: (not summary.deleted, summary.since.timestamp() if summary.since else 0))


def _named(known: list[str]) -> str:
    more = f", and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"live ones: {', '.join(known[:MOST_NAMED]) or 'none'}{more}"


def namesakes(events: EventLog, summary: DeploymentSummary) -> list[DeploymentSummary]:
    """Return the other deployments of the same name, deleted ones too."""
    return [other for other in matching(events, summary.name) if (other.id, other.lgp) != (summary.id, summary.lgp)]


def streams_of(summary: DeploymentSummary) -> tuple[str, ...]:
    """Return the streams of a deployment: the listener's (if there is a deployment) and the operator's."""
    listener = [deployment_stream(summary.id)] if summary.id else []
    operator = [lgp_stream(summary.namespace, summary.lgp)] if summary.lgp else []
    return (*listener, *operator)


def timeline(events: EventLog, summary: DeploymentSummary) -> list[Record]:
    """Return the records of one deployment, of both components, by position."""
    return by_position(events, streams_of(summary))


def by_position(events: EventLog, streams: Iterable[str]) -> list[Record]:
    """Return the records of `streams`, by position."""
    return list(merge(*events.read_many(dict.fromkeys(streams, 0)).values(), key=lambda record: record.position))


def everything(events: EventLog, through: int | None = None) -> Iterator[Record]:
    """Yield the records of the log by position, up to position `through` (None: all); read page by page."""
    position = 0
    while page := events.read_all(position):
        for record in page:
            if through is not None and record.position > through:
                return
            yield record
        position = page[-1].position


# --- data planes


def data_plane_states(events: EventLog) -> dict[str, DataPlaneState]:
    """Return the state of every data plane in this log, by the name of its stream. Raises FutureEvent."""
    states = {}
    for folded in _fold_all(DATA_PLANES, events, events.streams(DATA_PLANES.prefix)):
        if folded.problem:
            raise FutureEvent(folded.problem)
        states[folded.stream] = folded.state
    return states
