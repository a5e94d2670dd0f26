"""One line for a person on what an event says. A table by the type of event; what is not in it is told field by field.

Names of objects are long, because they carry ids. Of an id the first eight digits are told, and of an object that
belongs to the stream's LGP what its name adds to the LGP's: `Deployment`, `Deployment queue`. `--json` has everything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from engine.event import Record

Data = Mapping[str, Any]

LONGEST = 600
"""Characters of a summary: enough for the API server's message or the last lines of a crash."""

_UUID = re.compile(r"\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_HEX_ID = re.compile(r"(?<![0-9a-f])([0-9a-f]{8})[0-9a-f]{24}(?![0-9a-f])")
_SHA = re.compile(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}\b")


def summary(record: Record) -> str:
    """Return one line on what `record` says. Never raises: a shape that it does not know is told field by field."""
    tell = FORMATTERS.get(record.type)
    try:
        told = tell(record.data, _lgp(record)) if tell is not None else _everything(record.data)
    except (KeyError, TypeError, ValueError, AttributeError):
        told = _everything(record.data)
    line = shorten_ids(plain(told))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def plain(text: str) -> str:
    """Return `text` on one line, without characters that would do something to a terminal."""
    text = "; ".join(line for line in text.splitlines() if line.strip())
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def shorten_ids(text: str) -> str:
    """Return `text` with ids and digests cut to their first eight digits."""
    return _SHA.sub(r"\1…", _HEX_ID.sub(r"\1…", _UUID.sub(r"\1", text)))


def _lgp(record: Record) -> str:
    """Return the name of the stream's LGP, empty for other streams."""
    kind, _, rest = record.stream.partition("/")
    return rest.rpartition("/")[2] if kind == "lgp" else ""


# --- parts


def _object(key: Data | str, lgp: str) -> str:
    """Return `Kind` and what its name adds to the LGP's, or the whole name; of a key or its text."""
    kind, name = (key["kind"], key["name"]) if isinstance(key, Mapping) else _split(key)
    if lgp and (name == lgp or name.startswith(f"{lgp}-")):
        return f"{kind} {name.removeprefix(lgp).removeprefix('-')}".rstrip()
    return f"{kind} {name}".rstrip()


def _split(text: str) -> tuple[str, str]:
    kind, _, rest = text.partition(" ")
    return kind, rest.rpartition("/")[2]


def _objects(keys: Iterable[Data | str], lgp: str) -> str:
    """Return objects one after the other; those that are told alike once, with their number."""
    told = [_object(key, lgp) for key in keys]
    return ", ".join(f"{count} x {what}" if count > 1 else what for what, count in Counter(told).items())


def _joined(*parts: Any, by: str = ", ") -> str:
    return by.join(str(part) for part in parts if part)


def _clock(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%H:%M:%S")


# --- the streams deployment/<id>


def _requested(data: Data, lgp: str) -> str:
    secrets = len(data["secret_names"]) + len(data.get("secret_references") or ())
    variables = f"{secrets} secret{'s' if secrets != 1 else ''}" if secrets else ""
    return _joined(f"revision {data['revision_id']}", data["image"], variables)


def _lgp_applied(data: Data, lgp: str) -> str:
    if data.get("restored"):
        return f"LGP put back to revision {data['revision_id']}, generation {data['fingerprint']['generation']}"
    if data.get("stopped"):
        return f"LGP scaled to nothing, for revision {data['revision_id']} failed"
    done = "LGP created" if data["created"] else "LGP updated"
    return f"{done} for revision {data['revision_id']}, generation {data['fingerprint']['generation']}"


def _lgp_adopted(data: Data, lgp: str) -> str:
    others = f"LGP {data['lgp']} is there, written by {', '.join(data['managers']) or 'somebody else'}"
    if data["spec_digest"]:
        return f"{others}, and asks for revision {data['revision_id']}: it stays as it is"
    return f"{others}; it is written anew, for it differs in {', '.join(data['differences'])}"


def _rollout(data: Data, lgp: str) -> str:
    how = "available" if data["available"] else "progressing" if data["progressing"] else "not available"
    waits = "" if data["database_ready"] else "database not ready"
    counts = f"{data.get('ready', 0)}/{data.get('replicas', 0)} ready"
    first = str(data.get("message", "")).partition("\n")[0]
    why = _joined(data.get("reason"), first if len(first) <= 160 else f"{first[:159]}…", by=": ")
    return _joined(f"generation {data['generation']} {how}", counts, waits, why, data.get("warning"))


def _health(data: Data, lgp: str) -> str:
    return data["detail"] if data["ok"] else f"attempt {data['attempt']}, {data['url']}: {data['detail']}"


def _secrets_pruned(data: Data, lgp: str) -> str:
    deleted = data["deleted"]
    return _joined(f"deleted {', '.join(deleted)}" if deleted else "none to delete", f"kept {data['kept']}")


def _reported(data: Data, lgp: str) -> str:
    subject = f"revision {data['id']}" if data["subject"] == "revision" else "deployment"
    return _joined(f"{subject} {data['status']}", data.get("reason"), by=": ")


def _pending(data: Data, lgp: str) -> str:
    finalizers = ", ".join(data["finalizers"])
    return f"the LGP still exists, with finalizers {finalizers}" if finalizers else "the LGP still exists"


# --- the streams lgp/<namespace>/<name>


def _lgp_observed(data: Data, lgp: str) -> str:
    revision = f"revision {data['revision']}" if data["revision"] else ""
    unknown = f"unknown fields: {', '.join(data['unknown'])}" if data.get("unknown") else ""
    return _joined(f"generation {data['generation']}", revision, "being deleted" if data["deleting"] else "", unknown)


def _applied(data: Data, lgp: str) -> str:
    created = set(data.get("created") or ())
    keys = [entry["key"] for entry in data["objects"]]
    new = [key for key in keys if f"{key['kind']} {key['namespace']}/{key['name']}" in created]
    old = [key for key in keys if key not in new]
    told = (f"created {_objects(new, lgp)}" if new else "", f"applied {_objects(old, lgp)}" if old else "")
    return _joined(*told, by="; ")


def _adopted(data: Data, lgp: str) -> str:
    """What was there before us: whose pods go on, whose are replaced and why, and the database."""
    adopted = data["adopted"]
    kept, others = adopted["objects"], ", ".join(adopted["managers"])
    alone = [key for key, one in kept.items() if one["template"]]
    why = {key: one["differences"] for key, one in kept.items() if one["differences"]}
    replaced = [f"{_object(key, lgp)} ({', '.join(paths)})" for key, paths in why.items()]
    database = adopted["database"]
    return _joined(
        f"made by {others}" if others else "made before",
        f"pods of {_objects(alone, lgp)} stay as they are" if alone else "",
        f"pods are replaced of {', '.join(replaced)}" if replaced else "",
        f"database {database['name']} with the password in Secret {database['secret']}" if database else "",
        by="; ",
    )


def _pruned(data: Data, lgp: str) -> str:
    objects = data["objects"]
    if not data.get("everything"):
        left = data.get("left") or ()
        gone = [key for key in objects if key not in left]
        told = f"left {_objects(left, lgp)}, which we may not touch any more" if left else ""
        return _joined(f"deleted {_objects(gone, lgp)}" if gone else "", told, by="; ")
    return f"nothing is left; deleted {', '.join(objects)}" if objects else "nothing was left"


def _drift(data: Data, lgp: str) -> str:
    """Of either component: the listener's names the object in a text."""
    which = _object(data["key"], lgp) if "key" in data else str(data["object"])
    return _joined(f"{which} {data['change']}", data.get("detail"), by=": ")


def _workload(data: Data, lgp: str) -> str:
    seen = data["workload"]
    desired = seen["desired"]
    counts = f"{_object(seen['key'], lgp)} {seen['ready']}/{desired} ready"
    rolling = not seen["updated"] == seen["replicas"] == desired
    pods = f"{seen['updated']} of {seen['replicas']} pods new" if rolling and seen["replicas"] else ""
    behind = "not yet seen by its controller" if seen["observed_generation"] < seen["generation"] else ""
    failure = seen.get("failure") or {}
    why = _joined(failure.get("reason"), failure.get("message"), failure.get("log"), by=": ")
    pod = _joined(failure.get("pod") and f"pod {failure['pod']}", failure.get("container"), by=" ")
    failed = _joined(pod, why, by=" ") if failure else ""
    return _joined(counts, pods, behind, failed, seen.get("unschedulable"), seen.get("deadline_exceeded"))


def _autoscaler(data: Data, lgp: str) -> str:
    seen = data["autoscaler"]
    which = _object(seen["key"], lgp)
    why = _joined(seen.get("reason"), seen.get("message"), by=": ")
    return f"{which} does not work at the moment: {why}" if why else f"{which} works"


def _conditions(data: Data, lgp: str) -> str:
    """Conditions that hold, and those that should and do not, with their reasons: the events before tell the rest."""
    conditions = {condition["type"]: condition for condition in data["status"].get("conditions", ())}
    told = [f"{kind} ({c['reason']})" for kind, c in conditions.items() if c["status"] == "True"]
    told += [f"not {kind} ({c['reason']})" for kind, c in conditions.items() if _missed(kind, c["status"])]
    return ", ".join(told)


def _missed(kind: str, status: str) -> bool:
    return status != "True" and kind in ("Available", "DatabaseReady", "Autoscaling", "DisruptionBudgets")


# --- the streams engine/<name>


def _spread(data: Data, lgp: str) -> str:
    return f"every stream of the {data['component']} is decided anew with {data['digest']}"


def _tripped(data: Data, lgp: str) -> str:
    which = ", ".join(data["deployments"])
    return f"{len(data['deployments'])} of {data['live']} deployments would go at once: {which}"


def _released(data: Data, lgp: str) -> str:
    count = len(data["deployments"])
    return f"{count} deletions may go on, by {data['by']}" if count else "fewer would go at once by now"


Tell = Callable[[Data, str], str]


def _text(template: str) -> Tell:
    """Return a Tell that fills in fields of the data."""
    return lambda data, lgp: template.format_map(data)


FORMATTERS: Mapping[str, Tell] = {
    "DeploymentRegistered": _text("{name} in {namespace}, LGP {lgp}"),
    "RevisionRequested": _requested,
    "RevisionSuperseded": _text("revision {revision_id} by {by}"),
    "DeletionRequested": _text("{reason}"),
    "SecretsApplied": _text("Secret {secret} for revision {revision_id}"),
    "LgpAdopted": _lgp_adopted,
    "LgpApplied": _lgp_applied,
    "LgpRejected": _text("{object}: {message}"),
    "RolloutObserved": _rollout,
    "HealthChecked": _health,
    "RevisionDeployed": _text("revision {revision_id} serves"),
    "RevisionFailed": _text("revision {revision_id}: {reason}: {message}"),
    "SecretsPruned": _secrets_pruned,
    "LgpGone": _text("the LGP does not exist any more"),
    "DeletionStarted": lambda data, lgp: "the LGP was asked to go" if data["existed"] else "there was no LGP",
    "DeletionPending": _pending,
    "DeploymentDeleted": _text("nothing of it is left"),
    "StatusReported": _reported,
    "StatusReportRejected": _reported,
    "EndpointPublished": _text("{url}"),
    "EndpointNotPublished": _text("{url}: {reason}"),
    "Paused": _text("by {by}"),
    "Resumed": _text("by {by}"),
    "ActDeferred": lambda data, lgp: (
        f"{data['act']}, attempt {data['attempt']}, again at {_clock(data['retry_at'])}: {data['reason']}"
    ),
    "ActRefused": _text("{act}: {reason}"),
    "LgpObserved": _lgp_observed,
    "LgpRemoved": _text("the LGP does not exist"),
    "ObjectsAdopted": _adopted,
    "ObjectsApplied": _applied,
    "ObjectRejected": lambda data, lgp: f"{_object(data['key'], lgp)}: {data['message']}",
    "ObjectsPruned": _pruned,
    "DriftDetected": _drift,
    "WorkloadObserved": _workload,
    "AutoscalerObserved": _autoscaler,
    "AutoscalerUnhealthy": lambda data, lgp: (
        f"{_object(data['key'], lgp)} does not work: {_joined(data['reason'], data['message'], by=': ')}"
    ),
    "LgpStatusApplied": _conditions,
    "ConfigurationRecorded": _text("{component}, digest {digest}"),
    "ConfigurationSpread": _spread,
    "ListenerPublished": _text("version {version}"),
    "ListenerRefused": _text("{reason}"),
    "NamespaceLeased": _text("{namespace} is ours"),
    "NamespaceRefused": _text("{namespace} is held by data plane {holder}: nothing is written there"),
    "NamespaceLeft": _text("{namespace} is watched no longer"),
    "RemovalStarted": _text("by {by}: polls stop, Agent Servers go"),
    "RemovalCancelled": _text("by {by}: polls go on"),
    "PollFailed": _text("{reason}"),
    "PollRecovered": _text("the control plane answers again"),
    "ResourceRejected": _text("{resource} skipped: {field}: {problem}"),
    "ResourceAccepted": _text("{resource} is skipped no longer"),
    "DeletionGuardTripped": _tripped,
    "DeletionGuardReleased": _released,
}
"""How to tell of each type of event."""


def _everything(data: Data) -> str:
    """Return every field that says something, for a type of event that this version does not know."""
    return " ".join(f"{key}={_short(value)}" for key, value in data.items() if value not in ("", None, [], {}, False))


def _short(value: Any) -> str:
    match value:
        case dict():
            return f"{{{len(value)}}}"
        case list():
            return f"[{len(value)}]"
        case _:
            return str(value)
