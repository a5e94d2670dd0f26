"""What people ask the log: which deployments there are, what happened to one. Read models, made anew at each call.

A stream that this program cannot read (events of a newer one, a lost snapshot) is shown as far as it was read, with
the reason; it hides none of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any

import orjson
from pydantic import ValidationError

from engine.dataplane.events import DATA_PLANE_EVENTS
from engine.dataplane.state import DataPlaneState, evolve
from engine.digests import canonical
from engine.errors import AgentplaneError, FutureEvent, SnapshotUnreadable
from engine.event import Record, Registry
from engine.listener.events import DEPLOYMENT_EVENTS
from engine.listener.machine import ListenerMachine
from engine.listener.state import OPEN, DeploymentState
from engine.listener.state import evolve as evolve_deployment
from engine.log.contract import EventLog
from engine.names import deployment_stream, lgp_stream
from engine.operator.events import LGP_EVENTS
from engine.operator.machine import OperatorMachine
from engine.operator.state import Life, OperatorState
from engine.operator.state import evolve as evolve_lgp
from engine.replay import DATA_PLANE_PREFIX
from engine.runtime.values import from_json

AT_ONCE = 200
"""Streams that are read in one round trip."""
MOST_TOLD = 20
"""Names of deployments that an error lists."""


class UnknownDeployment(AgentplaneError):
    """No deployment of the log has this name or id."""


class AmbiguousDeployment(AgentplaneError):
    """Several live deployments have this name; their ids tell them apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSummary:
    """One deployment, or an LGP that belongs to none of this log, as a line of a table."""

    id: str
    """Empty for an LGP that somebody else wrote."""
    name: str
    namespace: str
    lgp: str
    status: str
    """As the control plane knows it; of an LGP alone its life, as the operator knows it."""
    revision: str
    """Id of the current revision, empty when none was asked for."""
    phase: str
    """Of the current revision; of an LGP alone AVAILABLE, PROGRESSING or DEGRADED."""
    serving: str
    """Id of the revision deployed last."""
    image: str
    since: datetime | None
    """When the current revision entered its phase."""
    reason: str
    """Why things are as they are; empty when all is well."""
    paused: bool
    stopped: bool
    """Its revision failed, and was scaled to nothing."""
    deleted: bool
    failed: bool
    """Somebody should look at it."""


@dataclass(frozen=True, slots=True)
class _Folded:
    """A stream, as far as it could be read."""

    state: Any
    records: list[Record]
    problem: str = ""


def deployments(events: EventLog, *, deleted: bool = False) -> list[DeploymentSummary]:
    """Return the deployments of the log by name, and the LGPs of none; the `deleted` ones too where asked for."""
    views = [
        _summarize_deployment(stream, folded)
        for stream, folded in _fold_all(events, events.streams(ListenerMachine.stream_prefix))
        if folded.records
    ]
    known = {lgp_stream(view.namespace, view.lgp) for view in views}
    strangers = [stream for stream in events.streams(OperatorMachine.stream_prefix) if stream not in known]
    views += [_summarize_lgp(stream, folded) for stream, folded in _fold_all(events, strangers) if folded.records]
    return sorted((view for view in views if deleted or not view.deleted), key=lambda view: (view.name, view.id))


# --- folding


@dataclass(frozen=True, slots=True)
class _Kind:
    """How to fold one kind of stream."""

    initial: Any
    events: Registry
    evolve: Any = field(repr=False)


KINDS: Mapping[str, _Kind] = {
    ListenerMachine.stream_prefix: _Kind(DeploymentState(), DEPLOYMENT_EVENTS, evolve_deployment),
    OperatorMachine.stream_prefix: _Kind(OperatorState(), LGP_EVENTS, evolve_lgp),
    DATA_PLANE_PREFIX: _Kind(DataPlaneState(), DATA_PLANE_EVENTS, evolve),
}
"""By the beginning of a stream's name."""


def _fold_all(events: EventLog, streams: Iterable[str]) -> Iterator[tuple[str, _Folded]]:
    for stream, records in _read_all(events, streams):
        yield stream, _fold(events, stream, records)


def _read_all(events: EventLog, streams: Iterable[str]) -> Iterator[tuple[str, list[Record]]]:
    names = iter(streams)
    while some := list(islice(names, AT_ONCE)):
        yield from events.read_many(dict.fromkeys(some, 0)).items()


def _fold(events: EventLog, stream: str, records: list[Record]) -> _Folded:
    """Fold a stream; one whose beginning was trimmed starts from the snapshot that stands for it."""
    kind = next(kind for prefix, kind in KINDS.items() if stream.startswith(prefix))
    state, version = kind.initial, 0
    try:
        if records and records[0].version > 1:
            state, version = _beginning(events, stream, records[0].version, type(kind.initial))
        for record in records:
            if record.version > version:
                state = kind.evolve(state, kind.events.decode(record), record.at)
    except (FutureEvent, SnapshotUnreadable) as error:
        return _Folded(state, records, f"{type(error).__name__}: {error}")
    return _Folded(state, records)


def _beginning(events: EventLog, stream: str, first: int, kind: Any) -> tuple[Any, int]:
    snapshot = events.load_snapshot(stream)
    if snapshot is None or snapshot.version < first - 1:
        raise SnapshotUnreadable(f"{stream} begins at version {first} and has no snapshot of what came before")
    try:
        return from_json(kind, canonical(orjson.loads(snapshot.state)["state"])), snapshot.version
    except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise SnapshotUnreadable(f"{stream}: its snapshot is not understood ({type(error).__name__})") from None


# --- deployments


def _summarize_deployment(stream: str, folded: _Folded) -> DeploymentSummary:
    state: DeploymentState = folded.state
    revision = state.revision
    phase = revision.phase.value if revision else ""
    identity = stream.removeprefix(ListenerMachine.stream_prefix)
    return DeploymentSummary(
        id=identity,
        name=state.name or identity,
        namespace=state.namespace,
        lgp=state.lgp,
        status=state.status.value,
        revision=revision.id if revision else "",
        phase=phase,
        serving=state.serving or "",
        image=revision.image if revision else "",
        since=revision.since if revision else state.registered_at,
        reason=folded.problem or reason(state, folded.records),
        paused=state.paused,
        stopped=state.applied is not None and state.applied.stopped and phase == "DEPLOY_FAILED",
        deleted=state.deleted,
        failed=bool(folded.problem or (state.refused and not state.deleted)) or phase == "DEPLOY_FAILED",
    )


def reason(state: DeploymentState, records: Iterable[Record]) -> str:
    """Return why a deployment is as it is: the first that applies of refused, deferred, failed, waiting, warned of."""
    if state.deleted:
        return state.deletion_reason
    if state.refused:
        act, why = next(iter(state.refused.items()))
        return f"{act} is refused: {why}"
    deferred = _deferred(state, records)
    if deferred or state.deletion_reason:
        return deferred or _deletion(state, records)
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


def _deferred(state: DeploymentState, records: Iterable[Record]) -> str:
    """Return what keeps an act from coming through; passing failures are told by the record of the last of them."""
    last = {
        record.data.get("act"): record.data
        for record in records
        if record.type == "ActDeferred" and record.data.get("act") in state.deferred
    }
    return next((f"{act} fails (attempt {data['attempt']}): {data['reason']}" for act, data in last.items()), "")


def _deletion(state: DeploymentState, records: Iterable[Record]) -> str:
    pending = [record.data for record in records if record.type == "DeletionPending"]
    finalizers = ", ".join(pending[-1].get("finalizers", ())) if pending and not state.lgp_gone else ""
    return f"{state.deletion_reason}; its LGP waits for {finalizers}" if finalizers else state.deletion_reason


def _summarize_lgp(stream: str, folded: _Folded) -> DeploymentSummary:
    """Return an LGP that no deployment of this log names, as the operator knows it."""
    state: OperatorState = folded.state
    namespace, _, name = stream.removeprefix(OperatorMachine.stream_prefix).partition("/")
    conditions = {condition["type"]: condition["status"] for condition in state.status.get("conditions", ())}
    phases = (("Degraded", "DEGRADED"), ("Available", "AVAILABLE"), ("Progressing", "PROGRESSING"))
    phase = next((said for kind, said in phases if conditions.get(kind) == "True"), "")
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


def leaves_nothing(events: EventLog, view: DeploymentSummary) -> bool:
    """Whether a deployment is deleted, and nothing of its LGP left, as far as an operator of this log keeps it."""
    stream = lgp_stream(view.namespace, view.lgp)
    (_, folded), *_ = _fold_all(events, [stream])
    state: OperatorState = folded.state
    return view.deleted and state.life in (Life.UNKNOWN, Life.PRUNED)


# --- finding


def matching(events: EventLog, wanted: str) -> list[DeploymentSummary]:
    """Return the deployments, deleted ones too, that have `wanted` as id, name or name of their LGP."""
    found = [
        _summarize_deployment(stream, _fold(events, stream, records))
        for stream, records in _read_all(events, events.streams(ListenerMachine.stream_prefix))
        if _may_be(stream, records, wanted)
    ]
    known = {lgp_stream(view.namespace, view.lgp) for view in found}
    strangers = [
        s for s in events.streams(OperatorMachine.stream_prefix) if s.endswith(f"/{wanted}") and s not in known
    ]
    found += [_summarize_lgp(stream, folded) for stream, folded in _fold_all(events, strangers)]
    return [view for view in found if wanted in (view.id, view.name, view.lgp)]


def _may_be(stream: str, records: Iterable[Record], wanted: str) -> bool:
    """Whether it is worth folding a stream to see if it is the wanted one."""
    if stream == deployment_stream(wanted):
        return True
    told = [record.data for record in records if record.type in ("DeploymentRegistered", "LgpAdopted")]
    return not told or any(wanted in (data.get("name"), data.get("lgp")) for data in told)


def find(events: EventLog, wanted: str, *, one: bool = False) -> DeploymentSummary:
    """Return the deployment that `wanted` names: by id, name, or the name of its LGP; the newest live one of several.

    Raises UnknownDeployment; with `one` also AmbiguousDeployment, where several live ones have that name.
    """
    found = matching(events, wanted)
    if not found:
        known = sorted({view.name for view in deployments(events)})
        raise UnknownDeployment(f"the log knows no deployment {wanted!r} ({_told(known)})")
    live = [view for view in found if not view.deleted]
    if one and len(live) > 1:
        told = ", ".join(f"{view.id or view.lgp} (namespace {view.namespace})" for view in live)
        raise AmbiguousDeployment(f"{len(live)} live deployments are named {wanted!r}: {told}; give the id of one")
    return max(found, key=lambda view: (not view.deleted, view.since.timestamp() if view.since else 0))


def _told(known: list[str]) -> str:
    more = f", and {len(known) - MOST_TOLD} more" if len(known) > MOST_TOLD else ""
    return f"live ones: {', '.join(known[:MOST_TOLD]) or 'none'}{more}"


def namesakes(events: EventLog, view: DeploymentSummary) -> list[DeploymentSummary]:
    """Return the other deployments of the same name, deleted ones too."""
    return [other for other in matching(events, view.name) if (other.id, other.lgp) != (view.id, view.lgp)]


def streams_of(view: DeploymentSummary) -> tuple[str, ...]:
    """Return the streams of a deployment: the listener's and the operator's; of an LGP alone the operator's."""
    both = (deployment_stream(view.id) if view.id else "", lgp_stream(view.namespace, view.lgp) if view.lgp else "")
    return tuple(stream for stream in both if stream)


def timeline(events: EventLog, view: DeploymentSummary) -> list[Record]:
    """Return the records of one deployment, both components, by position."""
    return by_position(events, streams_of(view))


def by_position(events: EventLog, streams: Iterable[str]) -> list[Record]:
    """Return the records of some streams in the order of their positions."""
    return list(merge(*events.read_many(dict.fromkeys(streams, 0)).values(), key=lambda record: record.position))


def everything(events: EventLog, through: int | None = None) -> Iterator[Record]:
    """Yield the records of the log by position, up to position `through`, page by page."""
    position = 0
    while page := events.read_all(position):
        for record in page:
            if through is not None and record.position > through:
                return
            yield record
        position = page[-1].position


# --- data planes


def data_plane_states(events: EventLog) -> dict[str, DataPlaneState]:
    """Return the state of every data plane that this log knows, by the name of its stream. Raises FutureEvent."""
    states = {}
    for stream, folded in _fold_all(events, events.streams(DATA_PLANE_PREFIX)):
        if folded.problem:
            raise FutureEvent(folded.problem)
        states[stream] = folded.state
    return states
