"""Who set which fields of a Kubernetes object (`metadata.managedFields`), and how they change hands. Pure.

The API server keeps one entry per field manager and way of writing, with the fields that it owns as a tree. An apply
takes out of an object what the applier owned and no longer asks for, unless somebody else owns it too. So what a
program before us set stays for good, whatever we apply, until its fields become ours: then the next apply takes out
what nobody asks for any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engine.ports import Manifest

Fields = dict[str, Any]
"""A tree of fields as `fieldsV1` has it."""

CONTROLLERS = frozenset({"kube-controller-manager"})
"""Field managers that work on every object, whoever made it."""


def applies(live: Manifest, manager: str, *path: str) -> bool:
    """Whether `manager` applied something below the field `path` (`spec`, `template`) of a live object."""
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
    """Return who else set fields of the spec, but for Kubernetes' own controllers."""
    return sorted({str(entry["manager"]) for entry in _entries(live) if _is_foreign(entry, manager)})


def last_writer(live: Manifest, manager: str) -> str:
    """Return who but `manager` and Kubernetes' own controllers wrote an object last; empty: nobody."""
    others = [
        (str(entry.get("time", "")), str(entry.get("manager", "")))
        for entry in _entries(live)
        if entry.get("manager") not in {manager, *CONTROLLERS} and not entry.get("subresource")
    ]
    return max(others, default=("", ""))[1]


def taken_over(live: Manifest, manager: str, spare: Collection[str] = ()) -> list[Fields] | None:
    """Return the `managedFields` of a live object with the fields of its spec that others set as `manager`'s.

    `spare` names fields of the spec that are left to whoever set them. None where others set nothing else.
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


def leftovers(live: Manifest, manager: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a merge patch of the spec that takes out what others set and `asked`, the spec to apply, does not have.

    An apply alone would leave it: an API server takes out only what the applier itself set before.
    """
    left: dict[str, Any] = {}
    for entry in _entries(live):
        if _is_foreign(entry, manager):
            left = _merged(left, _unasked(entry["fieldsV1"]["f:spec"], asked, live.get("spec") or {}))
    return left


def _unasked(fields: Mapping[str, Any], asked: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    left: dict[str, Any] = {}
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


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
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
    """Return what is left of somebody's entry."""
    fields = {name: below for name, below in entry["fieldsV1"].items() if name != "f:spec"}
    spec = {name: below for name, below in entry["fieldsV1"]["f:spec"].items() if name in spared}
    return {**entry, "fieldsV1": {**fields, **({"f:spec": spec} if spec else {})}}


def _union(one: Mapping[str, Any], other: Mapping[str, Any]) -> Fields:
    return {name: _union(one.get(name) or {}, other.get(name) or {}) for name in dict.fromkeys((*one, *other))}
