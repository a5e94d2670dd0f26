"""One line for a person on what an event says. FORMATTERS is the table, by the class of the event.

An event that is not in the table, or that this program does not know, is summarized field by field. To add an event:
write a formatter, and add it to FORMATTERS; a test fails for a class of events that has none.

Names of objects are long, because they carry ids. The summary keeps the first eight digits of an id. Of an object that
belongs to the stream's LGP, the summary keeps what its name adds to the LGP's name: `Deployment`, `Deployment queue`.
`--json` has everything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from engine.dataplane import events as data_plane
from engine.errors import FutureEvent
from engine.event import Event, Json, Record, Registry
from engine.listener import events as listener
from engine.listener.machine import ListenerMachine
from engine.names import DATA_PLANE_PREFIX
from engine.operator import events as operator
from engine.operator.machine import OperatorMachine
from engine.ports import ObjectKey
from engine.runtime.backoff import ActDeferred, ActRefused

E = TypeVar("E", bound=Event)

LONGEST = 600
"""Characters of a summary: enough for a message of the API server, or the last lines of a crash."""
SHORTENED = "… [shortened] …"
"""Stands for the lines that a summary leaves out."""
MOST_CHANGES = 4
"""Settings that the summary of a changed configuration names."""

_UUID = re.compile(r"\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_HEX_ID = re.compile(r"(?<![0-9a-f])([0-9a-f]{8})[0-9a-f]{24}(?![0-9a-f])")
_SHA = re.compile(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}\b")

REGISTRIES: Mapping[str, Registry] = {
    ListenerMachine.stream_prefix: listener.DEPLOYMENT_EVENTS,
    OperatorMachine.stream_prefix: operator.LGP_EVENTS,
    DATA_PLANE_PREFIX: data_plane.DATA_PLANE_EVENTS,
}
"""The events of each kind of stream, by the beginning of the stream's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a formatter knows besides the event."""

    lgp: str = ""
    """Name of the stream's LGP; empty for streams of another kind."""
    previous: data_plane.ConfigurationRecorded | None = None
    """The configuration that the same component recorded before; None if it is not known."""


class Summaries:
    """Summarizes records one after the other. It remembers configurations, so that it can say what changed."""

    def __init__(self) -> None:
        self._configurations: dict[tuple[str, str], data_plane.ConfigurationRecorded] = {}
        """By stream and component."""

    def summary(self, record: Record) -> str:
        """Return one line on what `record` says. Never raises."""
        return _shortened(self._text(record))

    def _text(self, record: Record) -> str:
        registry = next((known for prefix, known in REGISTRIES.items() if record.stream.startswith(prefix)), None)
        try:
            if registry is None:
                return _field_by_field(record.data)
            event = registry.decode(record)
        except FutureEvent:
            return _field_by_field(record.data)
        formatter = FORMATTERS.get(type(event))
        if formatter is None:
            return _field_by_field(record.data)
        return formatter(event, self._context(record, event))

    def _context(self, record: Record, event: Event) -> Context:
        if not isinstance(event, data_plane.ConfigurationRecorded):
            return Context(lgp=_lgp(record))
        component = (record.stream, event.component)
        previous = self._configurations.get(component)
        self._configurations[component] = event
        return Context(previous=previous)


def plain(text: str) -> str:
    """Return `text` on one line, without characters that control a terminal."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    text = "".join(line if line is lines[-1] else f"{line} " if line.endswith(":") else f"{line}; " for line in lines)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _shortened(text: str) -> str:
    """Return `text` on one line of at most LONGEST characters.

    Of several lines the first ones and the last ones are kept, because the last log line of a crash names its cause.
    """
    whole = shorten_ids(plain(text))
    if len(whole) <= LONGEST:
        return whole
    first, *rest = [line for line in text.splitlines() if line.strip()] or [""]
    if not rest:
        return _cut(whole, LONGEST)
    if rest[0].endswith(":"):  # the heading of an excerpt of a log
        first, rest = f"{first}\n{rest[0]}", rest[1:]
    head = _cut(shorten_ids(plain(first)), LONGEST // 2)
    room = LONGEST - len(f"{head} {SHORTENED} ")
    tail = ""
    for line in reversed(rest):
        longer = shorten_ids(plain(f"{line}\n{tail}"))
        if tail and len(longer) > room:
            break
        tail = longer
    return f"{head} {SHORTENED} {_cut(tail, room)}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shorten_ids(text: str) -> str:
    """Return `text` with ids and digests cut to their first eight digits."""
    return _SHA.sub(r"\1…", _HEX_ID.sub(r"\1…", _UUID.sub(r"\1", text)))


def _lgp(record: Record) -> str:
    """Return the name of the stream's LGP; empty for streams of another kind."""
    is_lgp = record.stream.startswith(OperatorMachine.stream_prefix)
    return record.stream.rpartition("/")[2] if is_lgp else ""


# --- parts of summaries


def _object(key: ObjectKey | str, lgp: str) -> str:
    """Return the kind of an object and what its name adds to the LGP's, or its whole name. A key may be a text."""
    kind, name = _split(key) if isinstance(key, str) else (key.kind, key.name)
    if lgp and (name == lgp or name.startswith(f"{lgp}-")):
        return f"{kind} {name.removeprefix(lgp).removeprefix('-')}".rstrip()
    return f"{kind} {name}".rstrip()


def _split(text: str) -> tuple[str, str]:
    kind, _, rest = text.partition(" ")
    return kind, rest.rpartition("/")[2]


def _objects(keys: Iterable[ObjectKey | str], lgp: str) -> str:
    """Return objects one after the other; those with the same text once, with their number."""
    texts = [_object(key, lgp) for key in keys]
    return ", ".join(f"{count} x {text}" if count > 1 else text for text, count in Counter(texts).items())


def _joined(*parts: str, by: str = ", ") -> str:
    return by.join(part for part in parts if part)


def _clock(at: datetime) -> str:
    return at.strftime("%H:%M:%S")


# --- the streams deployment/<id>


def _registered(event: listener.DeploymentRegistered, context: Context) -> str:
    return f"{event.name} in namespace {event.namespace}, LGP {event.lgp}"


def _requested(event: listener.RevisionRequested, context: Context) -> str:
    count = len(event.secret_names) + len(event.secret_references)
    secrets = f"{count} secret{'s' if count != 1 else ''}" if count else ""
    return _joined(f"revision {event.revision_id}", event.image, secrets)


def _superseded(event: listener.RevisionSuperseded, context: Context) -> str:
    return f"revision {event.revision_id}, by revision {event.by}"


def _lgp_applied(event: listener.LgpApplied, context: Context) -> str:
    revision, generation = f"revision {event.revision_id}", f"generation {event.fingerprint.generation}"
    if event.restored:
        return f"LGP set back to {revision}, {generation}"
    if event.stopped:
        return f"LGP scaled to zero, because {revision} failed"
    return f"LGP {'created' if event.created else 'updated'} for {revision}, {generation}"


def _lgp_adopted(event: listener.LgpAdopted, context: Context) -> str:
    lgp = f"LGP {event.lgp}, written by {', '.join(event.managers) or 'an unknown client'},"
    if event.spec_digest:
        return f"{lgp} stays as it is: it already has revision {event.revision_id}"
    return f"{lgp} is rewritten, because of differences in {', '.join(event.differences)}"


def _rollout(event: listener.RolloutObserved, context: Context) -> str:
    state = "available" if event.available else "progressing" if event.progressing else "not available"
    database = "" if event.database_ready else "database not ready"
    first = event.message.partition("\n")[0]
    reason = _joined(event.reason, first if len(first) <= 160 else f"{first[:159]}…", by=": ")
    ready = f"{event.ready}/{event.replicas} ready"
    return _joined(f"generation {event.generation} {state}", ready, database, reason, event.warning)


def _health(event: listener.HealthChecked, context: Context) -> str:
    return event.detail if event.ok else f"attempt {event.attempt}, {event.url}: {event.detail}"


def _secrets_pruned(event: listener.SecretsPruned, context: Context) -> str:
    deleted = f"deleted {', '.join(event.deleted)}" if event.deleted else "nothing to delete"
    return f"{deleted}, kept {event.kept}"


def _deletion_started(event: listener.DeletionStarted, context: Context) -> str:
    return "requested the deletion of the LGP" if event.existed else "there was no LGP"


def _deletion_pending(event: listener.DeletionPending, context: Context) -> str:
    finalizers = f", with finalizers {', '.join(event.finalizers)}" if event.finalizers else ""
    return f"the LGP still exists{finalizers}"


def _report_rejected(event: listener.StatusReportRejected, context: Context) -> str:
    return _joined(_report(event), event.reason, by=": ")


def _report(event: listener.StatusReported | listener.StatusReportRejected) -> str:
    return f"{f'revision {event.id}' if event.subject == 'revision' else 'deployment'} {event.status}"


def _lgp_drift(event: listener.DriftDetected, context: Context) -> str:
    return f"{event.key} {event.change}"


def _deferred(event: ActDeferred, context: Context) -> str:
    return f"{event.act}, attempt {event.attempt}, next at {_clock(event.retry_at)}: {event.reason}"


# --- the streams lgp/<namespace>/<name>


def _lgp_observed(event: operator.LgpObserved, context: Context) -> str:
    revision = f"revision {event.revision}" if event.revision else ""
    unknown = f"with unknown fields {', '.join(event.unknown_fields)}" if event.unknown_fields else ""
    return _joined(f"generation {event.generation}", revision, "being deleted" if event.deleting else "", unknown)


def _objects_applied(event: operator.ObjectsApplied, context: Context) -> str:
    keys = [applied.key for applied in event.objects]
    created = [key for key in keys if str(key) in event.created]
    others = [key for key in keys if str(key) not in event.created]
    return _joined(
        f"created {_objects(created, context.lgp)}" if created else "",
        f"applied {_objects(others, context.lgp)}" if others else "",
        by="; ",
    )


def _objects_adopted(event: operator.ObjectsAdopted, context: Context) -> str:
    """Return which pods stay, which are replaced and why, and the database."""
    adopted, database = event.adopted, event.adopted.database
    stay = [key for key, one in adopted.objects.items() if one.template_digest]
    replaced = [
        f"{_object(key, context.lgp)} ({', '.join(one.differences)})"
        for key, one in adopted.objects.items()
        if one.differences
    ]
    return _joined(
        f"written by {', '.join(adopted.managers) or 'an unknown client'}",
        f"pods of {_objects(stay, context.lgp)} stay as they are" if stay else "",
        f"pods are replaced of {', '.join(replaced)}" if replaced else "",
        f"database {database.name} with the password in Secret {database.secret}" if database else "",
        by="; ",
    )


def _object_rejected(event: operator.ObjectRejected, context: Context) -> str:
    return f"{_object(event.key, context.lgp)}: {event.message}"


def _objects_pruned(event: operator.ObjectsPruned, context: Context) -> str:
    if event.everything:
        return f"nothing is left; deleted {', '.join(event.objects)}" if event.objects else "nothing was left"
    deleted = [key for key in event.objects if key not in event.left_in_place]
    left = f"left {_objects(event.left_in_place, context.lgp)} in place: our role no longer allows deleting it"
    return _joined(
        f"deleted {_objects(deleted, context.lgp)}" if deleted else "", left if event.left_in_place else "", by="; "
    )


def _object_drift(event: operator.DriftDetected, context: Context) -> str:
    return _joined(f"{_object(event.key, context.lgp)} was {event.change}", event.detail, by=": ")


def _workload(event: operator.WorkloadObserved, context: Context) -> str:
    seen, failure = event.workload, event.workload.failure
    ready = f"{_object(seen.key, context.lgp)} {seen.ready}/{seen.desired} ready"
    rolling = not seen.updated == seen.replicas == seen.desired
    pods = f"{seen.updated} of {seen.replicas} pods new" if rolling and seen.replicas else ""
    behind = "not yet observed by its controller" if seen.observed_generation < seen.generation else ""
    failed = _pod_failure(failure) if failure else ""
    return _joined(ready, pods, behind, failed, seen.unschedulable, seen.deadline_exceeded)


def _pod_failure(failure: operator.PodFailure) -> str:
    pod = _joined(failure.pod and f"pod {failure.pod}", failure.container, by=" ")
    return _joined(pod, _joined(failure.reason, failure.message, failure.log, by=": "), by=" ")


def _autoscaler(event: operator.AutoscalerObserved, context: Context) -> str:
    seen = event.autoscaler
    reason = _joined(seen.reason, seen.message, by=": ")
    which = _object(seen.key, context.lgp)
    return f"{which} does not work at the moment: {reason}" if reason else f"{which} works"


def _autoscaler_unhealthy(event: operator.AutoscalerUnhealthy, context: Context) -> str:
    return f"{_object(event.key, context.lgp)} does not work: {_joined(event.reason, event.message, by=': ')}"


EXPECTED_CONDITIONS = ("Available", "DatabaseReady", "Autoscaling", "DisruptionBudgets")
"""Conditions that a summary names when they are not True."""


def _conditions(event: operator.LgpStatusApplied, context: Context) -> str:
    """Return the conditions that are True, and the expected ones that are not, with their reasons."""
    conditions = event.status.get("conditions", ())
    true = [f"{c['type']} ({c['reason']})" for c in conditions if c["status"] == "True"]
    missed = [
        f"not {c['type']} ({c['reason']})"
        for c in conditions
        if c["status"] != "True" and c["type"] in EXPECTED_CONDITIONS
    ]
    return ", ".join([*true, *missed])


# --- the streams dataplane/<id>

RECHECKED = {"listener": "all deployments are re-checked", "operator": "all LGPs are re-checked"}
"""What follows a new configuration of a component."""


def _configuration(event: data_plane.ConfigurationRecorded, context: Context) -> str:
    component, previous = event.component.capitalize(), context.previous
    if previous is None:
        return f"{component} settings recorded, digest {event.digest}"
    changes = list(_changes("", previous.config, event.config))
    rechecked = RECHECKED.get(event.component, "everything is re-checked")
    if not changes:
        same_program = event.program == previous.program
        change = "settings recorded again" if same_program else "program changed, settings did not"
        return f"{component} {change}; {rechecked}"
    more = [f"{len(changes) - MOST_CHANGES} more"] if len(changes) > MOST_CHANGES else []
    return f"{component} settings changed ({', '.join([*changes[:MOST_CHANGES], *more])}); {rechecked}"


def _changes(path: str, before: Json, after: Json) -> Iterator[str]:
    """Yield the settings that differ, each with its value before and after."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            yield from _changes(f"{path}.{name}" if path else name, before.get(name), after.get(name))
    else:
        yield f"{path} {_value(before)} → {_value(after)}"


def _value(value: Json) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = _short(value)
    return (text if len(text) <= 40 else f"{text[:39]}…") or "none"


def _spread(event: data_plane.ConfigurationSpread, context: Context) -> str:
    rechecked = RECHECKED.get(event.component, "everything is re-checked")
    return f"{rechecked} with the settings of digest {event.digest}"


def _tripped(event: data_plane.DeletionGuardTripped, context: Context) -> str:
    count, ids = len(event.deployments), ", ".join(event.deployments)
    return f"{count} of {event.live} deployments would be deleted at once, so the deletions wait: {ids}"


def _released(event: data_plane.DeletionGuardReleased, context: Context) -> str:
    count = len(event.deployments)
    if not count:
        return "the deletions are no longer too many at once"
    return f"{count} deletion{'s' if count > 1 else ''} may proceed, by {event.by}"


# --- the table

Formatter = Callable[[E, Context], str]
AnyFormatter = Callable[[Any, Context], str]
"""The formatter of some class of events; `of` checks that it is the formatter of the class that it stands for."""


def of(event: type[E], formatter: Formatter[E]) -> tuple[type[Event], AnyFormatter]:
    """Return the row of one class of events; mypy checks that the formatter takes events of that class."""
    return event, formatter


def table(*rows: tuple[type[Event], AnyFormatter]) -> Mapping[type[Event], AnyFormatter]:
    """Return the table. Raises TypeError for a class that has two rows."""
    formatters = dict(rows)
    if len(formatters) < len(rows):
        twice = [event.__name__ for event, count in Counter(event for event, _ in rows).items() if count > 1]
        raise TypeError(f"{', '.join(twice)} has two formatters")
    return formatters


FORMATTERS = table(
    of(listener.DeploymentRegistered, _registered),
    of(listener.RevisionRequested, _requested),
    of(listener.RevisionSuperseded, _superseded),
    of(listener.DeletionRequested, lambda event, _: event.reason),
    of(listener.SecretsApplied, lambda event, _: f"Secret {event.secret} for revision {event.revision_id}"),
    of(listener.LgpAdopted, _lgp_adopted),
    of(listener.LgpApplied, _lgp_applied),
    of(listener.LgpRejected, lambda event, _: f"{event.key}: {event.message}"),
    of(listener.RolloutObserved, _rollout),
    of(listener.HealthChecked, _health),
    of(listener.RevisionDeployed, lambda event, _: f"revision {event.revision_id} serves"),
    of(listener.RevisionFailed, lambda event, _: f"revision {event.revision_id}: {event.reason}: {event.message}"),
    of(listener.SecretsPruned, _secrets_pruned),
    of(listener.DriftDetected, _lgp_drift),
    of(listener.LgpGone, lambda event, _: "the LGP no longer exists"),
    of(listener.DeletionStarted, _deletion_started),
    of(listener.DeletionPending, _deletion_pending),
    of(listener.DeploymentDeleted, lambda event, _: "all that the listener made is deleted"),
    of(listener.StatusReported, lambda event, _: _report(event)),
    of(listener.StatusReportRejected, _report_rejected),
    of(listener.EndpointPublished, lambda event, _: event.url),
    of(listener.EndpointNotPublished, lambda event, _: f"{event.url}: {event.reason}"),
    of(listener.Paused, lambda event, _: f"by {event.by}"),
    of(listener.Resumed, lambda event, _: f"by {event.by}"),
    of(ActDeferred, _deferred),
    of(ActRefused, lambda event, _: f"{event.act}: {event.reason}"),
    of(operator.LgpObserved, _lgp_observed),
    of(operator.LgpRemoved, lambda event, _: "the LGP does not exist"),
    of(operator.ObjectsAdopted, _objects_adopted),
    of(operator.ObjectsApplied, _objects_applied),
    of(operator.ObjectRejected, _object_rejected),
    of(operator.ObjectsPruned, _objects_pruned),
    of(operator.DriftDetected, _object_drift),
    of(operator.WorkloadObserved, _workload),
    of(operator.AutoscalerObserved, _autoscaler),
    of(operator.AutoscalerUnhealthy, _autoscaler_unhealthy),
    of(operator.LgpStatusApplied, _conditions),
    of(data_plane.ConfigurationRecorded, _configuration),
    of(data_plane.ConfigurationSpread, _spread),
    of(data_plane.ListenerPublished, lambda event, _: f"reported version {event.version} to the control plane"),
    of(data_plane.ListenerRefused, lambda event, _: event.reason),
    of(data_plane.NamespaceLeased, lambda event, _: f"this data plane holds namespace {event.namespace}"),
    of(
        data_plane.NamespaceRefused,
        lambda event, _: f"namespace {event.namespace} is held by data plane {event.holder}: nothing is written there",
    ),
    of(data_plane.NamespaceLeft, lambda event, _: f"namespace {event.namespace} is no longer watched"),
    of(data_plane.RemovalStarted, lambda event, _: f"by {event.by}: polls stop, Agent Servers are deleted"),
    of(data_plane.RemovalCancelled, lambda event, _: f"by {event.by}: polls resume"),
    of(data_plane.PollFailed, lambda event, _: event.reason),
    of(data_plane.PollRecovered, lambda event, _: "the control plane answers again"),
    of(data_plane.ResourceRejected, lambda event, _: f"{event.resource} is skipped: {event.field}: {event.problem}"),
    of(data_plane.ResourceAccepted, lambda event, _: f"{event.resource} is no longer skipped"),
    of(data_plane.DeletionGuardTripped, _tripped),
    of(data_plane.DeletionGuardReleased, _released),
)
"""How to summarize each class of events."""


def _field_by_field(data: Mapping[str, Json]) -> str:
    """Return every field that is not empty, for an event that this program does not know."""
    return " ".join(f"{key}={_short(value)}" for key, value in data.items() if value not in ("", None, [], {}, False))


def _short(value: Json) -> str:
    match value:
        case None:
            return ""
        case dict():
            return f"{{{len(value)}}}"
        case list():
            return f"[{len(value)}]"
        case _:
            return str(value)
