"""What people ask the log: which deployments there are, what happened to one. Read models, made anew at each call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from typing import Any

import orjson

from engine.engine_events import ENGINE_EVENTS, EngineState, evolve
from engine.errors import AgentplaneError
from engine.event import Record
from engine.listener.events import DEPLOYMENT_EVENTS
from engine.listener.machine import ListenerMachine
from engine.listener.state import DeploymentState
from engine.listener.state import evolve as evolve_deployment
from engine.log.contract import EventLog
from engine.names import deployment_stream, lgp_stream
from engine.replay import ENGINE_PREFIX


class UnknownDeployment(AgentplaneError):
    """No deployment of the log has this name or id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """One deployment, as a line of a table."""

    id: str
    name: str
    namespace: str
    lgp: str
    status: str
    revision: str
    """Id of the current revision, empty when none was asked for."""
    phase: str
    serving: str
    """Id of the revision deployed last."""
    image: str
    since: datetime | None
    """When the current revision entered its phase."""
    reason: str
    """Why things are as they are; empty when all is well."""
    paused: bool


def deployments(events: EventLog, *, deleted: bool = False) -> list[DeploymentView]:
    """Return the deployments of the log by name; the `deleted` ones too where asked for."""
    prefix = ListenerMachine.stream_prefix
    streams = events.read_many(dict.fromkeys(events.streams(prefix), 0))
    states = [_folded(events, stream, records) for stream, records in streams.items()]
    views = [_view(state) for state in states if state.id and (deleted or not state.deleted)]
    return sorted(views, key=lambda view: (view.name, view.id))


def _folded(events: EventLog, stream: str, records: list[Record]) -> DeploymentState:
    """Fold a stream; one whose beginning was trimmed starts from the snapshot that stands for it."""
    state, version = DeploymentState(), 0
    if records and records[0].version > 1:
        snapshot = events.load_snapshot(stream)
        if snapshot is not None:
            state = DeploymentState.model_validate(orjson.loads(snapshot.state)["state"])
            version = snapshot.version
    for record in records:
        if record.version > version:
            state = evolve_deployment(state, DEPLOYMENT_EVENTS.decode(record), record.at)
    return state


def _view(state: DeploymentState) -> DeploymentView:
    revision = state.revision
    return DeploymentView(
        id=state.id,
        name=state.name,
        namespace=state.namespace,
        lgp=state.lgp,
        status=state.status.value,
        revision=revision.id if revision else "",
        phase=revision.phase.value if revision else "",
        serving=state.serving or "",
        image=revision.image if revision else "",
        since=revision.since if revision else state.registered_at,
        reason=state.last_reason,
        paused=state.paused,
    )


def find(events: EventLog, wanted: str) -> DeploymentView:
    """Return the deployment that `wanted` names: by id, name, or the name of its LGP; the newest of several.

    Raises UnknownDeployment.
    """
    found = [v for v in deployments(events, deleted=True) if wanted in (v.id, v.name, v.lgp)]
    if not found:
        known = ", ".join(sorted({view.name for view in deployments(events)})) or "none"
        raise UnknownDeployment(f"the log knows no deployment {wanted!r} (live ones: {known})")
    return max(found, key=lambda view: (view.status != "DELETED", view.since.timestamp() if view.since else 0))


def streams_of(view: DeploymentView) -> tuple[str, str]:
    """Return the two streams of a deployment: the listener's and the operator's."""
    return deployment_stream(view.id), lgp_stream(view.namespace, view.lgp)


def timeline(events: EventLog, view: DeploymentView | None) -> list[Record]:
    """Return the records of one deployment, both halves, or (None) of everything, by position."""
    if view is not None:
        return list(merge(*(events.read(stream) for stream in streams_of(view)), key=lambda record: record.position))
    records: list[Record] = []
    while page := events.read_all(records[-1].position if records else 0):
        records += page
    return records


def engine_states(events: EventLog) -> dict[str, EngineState]:
    """Return the state of every data plane that this log knows, by the name of its stream."""
    states = {}
    for stream in events.streams(ENGINE_PREFIX):
        state = EngineState()
        for record in events.read(stream):
            state = evolve(state, ENGINE_EVENTS.decode(record), record.at)
        states[stream] = state
    return states


SUMMARY_LIMIT = 160
"""Characters of a record's summary."""

TOLD: dict[str, tuple[str, ...]] = {
    "DeploymentRegistered": ("name", "namespace", "lgp"),
    "RevisionRequested": ("revision_id", "image"),
    "RevisionSuperseded": ("revision_id", "by"),
    "DeletionRequested": ("reason",),
    "SecretsApplied": ("secret",),
    "LgpApplied": ("revision_id", "created"),
    "LgpRejected": ("object", "message"),
    "RolloutObserved": ("generation", "available", "reason", "message"),
    "HealthChecked": ("ok", "detail"),
    "RevisionDeployed": ("revision_id",),
    "RevisionFailed": ("reason", "message"),
    "StatusReported": ("subject", "status"),
    "StatusReportRejected": ("status", "reason"),
    "ActDeferred": ("act", "attempt", "reason"),
    "ActRefused": ("act", "reason"),
    "LgpObserved": ("generation", "revision", "deleting"),
    "ObjectRejected": ("key", "message"),
    "DriftDetected": ("key", "object", "change"),
}
"""What is worth telling of an event in one line; of others, all that is short."""


def summary(record: Record) -> str:
    """Return one line for a person on what a record says."""
    told = TOLD.get(record.type)
    items = {key: record.data[key] for key in told if key in record.data} if told is not None else record.data
    words = [f"{key}={_short(value)}" for key, value in items.items() if value not in ("", None, [], {}, False)]
    line = " ".join(words)
    return line if len(line) <= SUMMARY_LIMIT else f"{line[: SUMMARY_LIMIT - 1]}…"


def _short(value: Any) -> str:
    match value:
        case {"kind": kind, "name": name}:
            return f"{kind}/{name}"
        case dict():
            return f"{{{len(value)}}}"
        case list():
            return f"[{len(value)}]"
        case str():
            return " ".join(value.split())
        case _:
            return str(value)
