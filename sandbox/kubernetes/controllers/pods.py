"""Functions about Pods and pod templates that the workload controllers share. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import orjson

from sandbox.kubernetes.controllers.manager import controller_reference
from sandbox.kubernetes.store import Object

# Letters and digits that do not form words and are not easily confused.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Object, collisions: int = 0) -> str:
    """Return a hash of a pod template, ten characters; each value of `collisions` gives another hash."""
    text = orjson.dumps([template, collisions], option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(text, digest_size=10).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest)


def from_template(owner: Object, template: Object, **metadata: Any) -> Object:
    """Return a new Pod of `owner` with fields of `metadata`; it shares nothing with the template."""
    fresh: Object = orjson.loads(orjson.dumps(template))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **{key: value for key, value in fresh.get("metadata", {}).items() if key in ("labels", "annotations")},
            "namespace": owner["metadata"]["namespace"],
            "ownerReferences": [controller_reference(owner)],
            **metadata,
        },
        "spec": fresh["spec"],
    }


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a LabelSelector matches. An empty one matches nothing: a workload may not have an empty selector."""
    exact: dict[str, str] = selector.get("matchLabels") or {}
    expressions: list[Object] = selector.get("matchExpressions") or []
    if not exact and not expressions:
        return False
    return all(labels.get(key) == value for key, value in exact.items()) and all(
        _holds(expression, labels) for expression in expressions
    )


def _holds(expression: Object, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:  # DoesNotExist
            return value is None


def is_deleting(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def is_over(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Whether a Pod counts as a replica of its owner."""
    return not is_over(pod) and not is_deleting(pod)


def condition(obj: Object, kind: str) -> Object | None:
    """Return the condition of a type, None when there is none."""
    conditions: list[Object] = obj.get("status", {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), None)


def is_ready(pod: Object) -> bool:
    ready = condition(pod, "Ready")
    return ready is not None and ready["status"] == "True"


def seconds_until_available(pod: Object, min_ready_seconds: int, now: datetime) -> float | None:
    """Return the seconds until a ready Pod is available, 0 when it is available, None when it is not ready."""
    ready = condition(pod, "Ready")
    if ready is None or ready["status"] != "True":
        return None
    if min_ready_seconds <= 0:
        return 0
    since = parse_time(ready.get("lastTransitionTime")) or now
    return max(0.0, min_ready_seconds - (now - since).total_seconds())


def parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def clock() -> datetime:
    return datetime.now(UTC)
