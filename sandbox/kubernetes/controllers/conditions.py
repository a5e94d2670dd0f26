"""Conditions of a status: sets and removes them, with their times."""

from __future__ import annotations

from sandbox.kubernetes.controllers.pods import condition
from sandbox.kubernetes.registry import now
from sandbox.kubernetes.store import Object


def set_condition(obj: Object, kind: str, value: str, reason: str, message: str, *, touch: bool = False) -> None:
    """Set a condition. With the same status and reason it stays unchanged, unless `touch` sets a new update time."""
    known = condition(obj, kind)
    if known and (known["status"], known["reason"]) == (value, reason) and not touch:
        return
    moment = now()
    kept = known["lastTransitionTime"] if known and known["status"] == value else moment
    conditions: list[Object] = obj.setdefault("status", {}).setdefault("conditions", [])
    fresh = {
        "type": kind,
        "status": value,
        "lastUpdateTime": moment,
        "lastTransitionTime": kept,
        "reason": reason,
        "message": message,
    }
    obj["status"]["conditions"] = [item for item in conditions if item["type"] != kind] + [fresh]


def remove_condition(obj: Object, kind: str) -> None:
    """Remove the condition of this type."""
    conditions: list[Object] = obj.get("status", {}).get("conditions") or []
    obj["status"]["conditions"] = [item for item in conditions if item["type"] != kind]
