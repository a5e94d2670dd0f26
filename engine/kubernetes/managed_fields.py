"""Field ownership (`metadata.managedFields`): which manager set which fields, and how a field gets another owner. Pure.

The API server keeps one entry per field manager and operation, with the owned fields as a tree. An apply removes the
fields that its manager owned and no longer sets, unless another manager owns them too. So fields that another program
set before us would stay forever, whatever we apply. Once we own these fields, the next apply removes those that it does
not set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from engine.event import JsonObject
from engine.ports import Manifest

Fields: TypeAlias = JsonObject
"""A tree of fields, in the form of `fieldsV1`; or an entry of `managedFields`."""

CONTROLLERS = frozenset({"kube-controller-manager"})
"""Field managers of Kubernetes' own controllers, which write to the objects of every program."""


def applies(live: Manifest, manager: str, *path: str) -> bool:
    """Whether `manager` applied a field below `path` (for example `spec`, `template`) of a live object."""
    for entry in _entries(live):
        if _is_applier(entry, manager):
            fields = entry.get("fieldsV1") or {}
            for name in path:
                fields = fields.get(f"f:{name}") if isinstance(fields, Mapping) else None
                if fields is None:
                    break
            else:
                return True
    return False


def other_managers(live: Manifest, manager: str) -> list[str]:
    """Return the other managers of fields of the spec, without Kubernetes' own controllers."""
    return sorted({str(entry["manager"]) for entry in _entries(live) if _is_foreign(entry, manager)})


def last_writer(live: Manifest, manager: str) -> str:
    """Return the last writer of an object except `manager` and Kubernetes' own controllers; empty if there is none."""
    others = [
        (str(entry.get("time", "")), str(entry.get("manager", "")))
        for entry in _entries(live)
        if entry.get("manager") not in {manager, *CONTROLLERS} and not entry.get("subresource")
    ]
    return max(others, default=("", ""))[1]


def taken_over(live: Manifest, manager: str, spare: Collection[str] = ()) -> list[Fields] | None:
    """Return the `managedFields` of a live object in which `manager` owns the fields of the spec that others own.

    `spare` names fields of the spec that stay with their owners. None if others own no other fields of the spec.
    """
    spared = {f"f:{name}" for name in spare}
    foreign = [entry for entry in _entries(live) if _is_foreign(entry, manager)]
    moved: Fields = {}
    for entry in foreign:
        moved = _union(moved, {n: below for n, below in entry["fieldsV1"]["f:spec"].items() if n not in spared})
    if not moved:
        return None
    own = next((entry for entry in _entries(live) if _is_applier(entry, manager)), None)
    fields = (own or {}).get("fieldsV1") or {}
    joined = {
        **(own or {"manager": manager, "operation": "Apply", "apiVersion": live["apiVersion"]}),
        "fieldsType": "FieldsV1",
        "fieldsV1": {**fields, "f:spec": _union(fields.get("f:spec") or {}, moved)},
    }
    rest = [_left(entry, spared) if entry in foreign else entry for entry in _entries(live) if entry is not own]
    return [joined, *(entry for entry in rest if entry["fieldsV1"])]


def leftovers(live: Manifest, manager: str, asked: JsonObject) -> JsonObject:
    """Return a merge patch of the spec that removes the fields that others set and `asked`, the spec to apply, lacks.

    An apply alone would leave these fields: the API server removes only fields that the applier itself set before.
    """
    left: JsonObject = {}
    for entry in _entries(live):
        if _is_foreign(entry, manager):
            left = _merged(left, _unasked(entry["fieldsV1"]["f:spec"], asked, live.get("spec") or {}))
    return left


def _unasked(fields: JsonObject, asked: JsonObject, there: JsonObject) -> JsonObject:
    left: JsonObject = {}
    for name, below in fields.items():
        field = name.removeprefix("f:")
        if not name.startswith("f:") or field not in there:
            continue
        if field not in asked:
            left[field] = None
            continue
        both = isinstance(asked[field], Mapping) and isinstance(there[field], Mapping)
        if both and below and (deeper := _unasked(below, asked[field], there[field])):
            left[field] = deeper
    return left


def _merged(one: JsonObject, other: JsonObject) -> JsonObject:
    both = {
        name: _merged(one[name], other[name])
        for name in one.keys() & other.keys()
        if isinstance(one[name], Mapping) and isinstance(other[name], Mapping)
    }
    return {**one, **other, **both}


def _entries(live: Manifest) -> list[Fields]:
    entries: list[Fields] = live["metadata"].get("managedFields") or []
    return entries


def _is_applier(entry: Fields, manager: str) -> bool:
    return (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and not entry.get("subresource")


def _is_foreign(entry: Fields, manager: str) -> bool:
    others = entry.get("manager") not in {manager, *CONTROLLERS} and not entry.get("subresource")
    return others and "f:spec" in (entry.get("fieldsV1") or {})


def _left(entry: Fields, spared: set[str]) -> Fields:
    """Return another manager's entry without the fields of the spec, except those in `spared`."""
    fields = {name: below for name, below in entry["fieldsV1"].items() if name != "f:spec"}
    spec = {name: below for name, below in entry["fieldsV1"]["f:spec"].items() if name in spared}
    return {**entry, "fieldsV1": {**fields, **({"f:spec": spec} if spec else {})}}


def _union(one: JsonObject, other: JsonObject) -> Fields:
    return {name: _union(one.get(name) or {}, other.get(name) or {}) for name in dict.fromkeys((*one, *other))}
