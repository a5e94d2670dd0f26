"""Field ownership: `metadata.managedFields`, and server-side apply, which is based on it.

A field is identified by its path, a tuple of elements as they appear in `fieldsV1`: `f:spec`, `k:{"name":"web"}` for
an item of a list map, `v:"x"` for an item of a set. The fields of a manager are a set of paths, so ownership is set
algebra:

    apply    merged = live + configuration
             conflict = changed fields & fields of other managers (`force` takes the fields from these managers)
             stale = fields of this manager at its last apply - fields of any manager now; stale fields are removed
    update   changed fields belong only to the manager that changes them; removed fields belong to no manager
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from sandbox.kubernetes.schema import ANYTHING, NOTHING, Schema
from sandbox.kubernetes.status import ApiError, bad_request

Path = tuple[str, ...]
Paths = set[Path]

_NEVER_OWNED = frozenset(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [
        ("f:metadata", f"f:{name}")
        for name in ("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation",
                     "managedFields", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds")
    ]
)  # fmt: skip


# paths


def _encode(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def item_key(schema: Schema, item: Any) -> str:
    """Return the path element of a list item: its keys (with their defaults), or the value of an item of a set."""
    if not schema.keys:
        return f"v:{_encode(item)}"
    if not isinstance(item, dict):
        raise bad_request(f"associative list with keys {list(schema.keys)} has an element that's not a map: {item!r}")
    key: dict[str, Any] = {}
    for name in schema.keys:
        declared = schema.items.properties.get(name) if schema.items else None
        default = declared.default if declared is not None else NOTHING
        found = item.get(name, default)
        if found is not NOTHING and found is not None:
            key[name] = found
    return f"k:{_encode(key)}"


def _granular_map(schema: Schema, value: Any) -> bool:
    return isinstance(value, dict) and not schema.atomic


def _granular_list(schema: Schema, value: Any) -> bool:
    return isinstance(value, list) and not schema.atomic and bool(schema.keys or schema.is_set)


def _items(schema: Schema, value: list[Any]) -> dict[str, Any]:
    return {item_key(schema, item): item for item in value}


def _below(schema: Schema, name: str) -> Schema:
    return schema.child(name) or ANYTHING


def applied_fields(schema: Schema, value: Any, path: Path, out: Paths) -> None:
    """Add the paths that an apply configuration sets to `out`: leaves, list items, map entries."""
    if _granular_map(schema, value) and value:
        for name, found in value.items():
            at = (*path, f"f:{name}")
            if not isinstance(found, dict | list):
                out.add(at)
                continue
            if name not in schema.properties or not found:
                out.add(at)
            applied_fields(_below(schema, name), found, at, out)
    elif _granular_list(schema, value) and value:
        items = _items(schema, value)
        if len(items) < len(value):
            where = f"{dotted(path)}: duplicate entries for key {list(schema.keys)}"
            raise ApiError(500, "", f"failed to create typed patch object: {where}")
        for element, item in items.items():
            at = (*path, element)
            out.add(at)
            applied_fields(schema.items or ANYTHING, item, at, out)
    elif path:
        out.add(path)


def all_fields(schema: Schema, value: Any, path: Path, out: Paths) -> None:
    """Add `path` and every path below it to `out`."""
    out.add(path)
    if _granular_map(schema, value):
        for name, found in value.items():
            all_fields(_below(schema, name), found, (*path, f"f:{name}"), out)
    elif _granular_list(schema, value):
        for element, item in _items(schema, value).items():
            all_fields(schema.items or ANYTHING, item, (*path, element), out)


def compare(schema: Schema, old: Any, new: Any, path: Path, changed: Paths, removed: Paths) -> None:
    """Add the paths of added and modified fields to `changed`, those of removed fields to `removed`."""
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    if _granular_map(schema, old) and _granular_map(schema, new):
        before = {f"f:{name}": value for name, value in old.items()}
        after = {f"f:{name}": value for name, value in new.items()}
    elif _granular_list(schema, old) and _granular_list(schema, new):
        before, after = _items(schema, old), _items(schema, new)
    else:
        if old != new:
            changed.add(path)
        return
    in_list = isinstance(new, list)
    for element, value in after.items():
        below = (schema.items or ANYTHING) if in_list else _below(schema, element[2:])
        if element not in before:
            all_fields(below, value, (*path, element), changed)
        elif before[element] != value:
            compare(below, before[element], value, (*path, element), changed, removed)
    for element, value in before.items():
        if element not in after:
            below = (schema.items or ANYTHING) if in_list else _below(schema, element[2:])
            all_fields(below, value, (*path, element), removed)


def to_fields(paths: Iterable[Path]) -> dict[str, Any]:
    """Encode paths as `fieldsV1`."""
    root: dict[str, Any] = {}
    for path in sorted(paths):  # a prefix sorts before the paths below it, so an empty node is an owned field
        node = root
        for element in path[:-1]:
            below = node.get(element)
            if below is None:
                below = node[element] = {}
            elif not below:
                below["."] = {}
            node = below
        node[path[-1]] = {}
    return root


def from_fields(fields: Mapping[str, Any], path: Path = (), out: Paths | None = None) -> Paths:
    """Decode `fieldsV1` into paths."""
    out = set() if out is None else out
    if path and (not fields or "." in fields):
        out.add(path)
    for element, below in fields.items():
        if element != ".":
            from_fields(below, (*path, element), out)
    return out


def dotted(path: Path) -> str:
    """Return a path in readable form: `.spec.template.spec.containers[name="web"].image`."""
    words = []
    for element in path:
        sort, _, rest = element.partition(":")
        if sort == "f":
            words.append(f".{rest}")
        elif sort == "k":
            words.append("[" + ",".join(f"{name}={_encode(value)}" for name, value in orjson.loads(rest).items()) + "]")
        elif sort == "i":
            words.append(f"[{rest}]")
        else:
            words.append(f"[={rest}]")
    return "".join(words)


def undeclared(schema: Schema, value: Any, path: Path = ()) -> Iterator[str]:
    """Yield the fields of an apply configuration that its kind does not have, as readable paths."""
    if isinstance(value, dict) and schema.type in ("object", ""):
        for name, found in sorted(value.items()):
            below, at = schema.child(name), (*path, f"f:{name}")
            if below is not None:
                yield from undeclared(below, found, at)
            elif not schema.preserve:
                yield dotted(at)
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            element = item_key(schema, item) if schema.keys and isinstance(item, dict) else f"i:{index}"
            yield from undeclared(schema.items, item, (*path, element))


# managers


@dataclass(frozen=True, slots=True)
class Manager:
    """A field manager: name, operation, API version. With the operation Apply, the version does not distinguish."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        return (self.name, self.operation, "" if self.operation == "Apply" else self.api_version, self.subresource)

    def shown(self, time: str) -> str:
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return text if self.operation == "Apply" else f"{text} using {self.api_version} at {time}"


@dataclass(slots=True)
class _Entry:
    manager: Manager
    time: str
    paths: Paths = field(default_factory=set)


def _decode(managed: list[dict[str, Any]]) -> dict[tuple[str, ...], _Entry]:
    entries: dict[tuple[str, ...], _Entry] = {}
    for at in managed:
        manager = Manager(
            at.get("manager", ""), at.get("operation", "Update"), at.get("apiVersion", ""), at.get("subresource", "")
        )
        entries[manager.identity] = _Entry(manager, at.get("time", ""), from_fields(at.get("fieldsV1") or {}))
    return entries


def _encode_entries(entries: Mapping[tuple[str, ...], _Entry]) -> list[dict[str, Any]]:
    managed = []
    order = sorted(
        entries.values(), key=lambda at: (at.manager.operation, at.time, at.manager.name, at.manager.identity)
    )
    for at in order:
        if not at.paths:
            continue
        encoded = {
            "manager": at.manager.name,
            "operation": at.manager.operation,
            "apiVersion": at.manager.api_version,
            "time": at.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields(at.paths),
        }
        if at.manager.subresource:
            encoded["subresource"] = at.manager.subresource
        managed.append(encoded)
    return managed


def _set_managed(obj: dict[str, Any], managed: list[dict[str, Any]]) -> None:
    if managed:
        obj["metadata"]["managedFields"] = managed
    else:
        obj["metadata"].pop("managedFields", None)


def record_update(
    schema: Schema, old: dict[str, Any], new: dict[str, Any], manager: Manager, time: str, hidden: str = ""
) -> None:
    """Set `new`'s managedFields after a create, replace or patch by `manager`.

    The manager does not get paths below `hidden`: the status, in a write of the object itself.
    """
    given = new["metadata"].get("managedFields")
    kept = old["metadata"].get("managedFields", []) if not given else [at for at in given if at]
    if not kept and "uid" in old["metadata"]:
        new["metadata"].pop("managedFields", None)
        return  # a client reset managedFields: ownership is recorded again from the next apply on
    changed: Paths = set()
    removed: Paths = set()
    compare(schema, old, new, (), changed, removed)
    changed = {path for path in changed if path[0] != hidden} - _NEVER_OWNED
    gone = removed - _NEVER_OWNED
    if not changed and not gone:
        _set_managed(new, kept)
        return
    entries = _decode(kept)
    mine = entries.setdefault(manager.identity, _Entry(manager, time))
    for entry in entries.values():
        entry.paths -= gone
        if entry is not mine:
            entry.paths -= changed
    if changed:
        mine.paths |= changed
        mine.time = time
    _set_managed(new, _encode_entries(entries))


def apply(
    schema: Schema, live: dict[str, Any], config: dict[str, Any], manager: Manager, force: bool, time: str
) -> dict[str, Any]:
    """Apply `config` to a copy of `live`, which may be an empty object.

    Returns the merged object with its managedFields. Raises ApiError 409, which names the managers of the contested
    fields, unless `force`.
    """
    entries = _decode(live["metadata"].get("managedFields", []))
    if not entries and "uid" in live["metadata"]:
        earlier = Manager("before-first-apply", "Update", manager.api_version)
        entries[earlier.identity] = _Entry(earlier, time, _everything(schema, live))
    applied: Paths = set()
    applied_fields(schema, config, (), applied)
    applied -= _NEVER_OWNED
    merged: dict[str, Any] = _merge(schema, live, config)
    changed: Paths = set()
    compare(schema, live, merged, (), changed, set())
    _resolve_conflicts(entries, manager, changed, force)
    previous = entries.get(manager.identity)
    last = previous.paths if previous else set()
    entries[manager.identity] = _Entry(manager, time, applied)
    owned = {path[:length] for entry in entries.values() for path in entry.paths for length in range(1, len(path) + 1)}
    _remove(schema, merged, {path for path in last if path not in owned})
    if previous and previous.paths == applied and previous.manager == manager and not _differs(schema, live, merged):
        entries[manager.identity] = previous
    _set_managed(merged, _encode_entries(entries))
    return merged


def _everything(schema: Schema, obj: dict[str, Any]) -> Paths:
    found: Paths = set()
    compare(schema, {"metadata": {}}, obj, (), found, set())
    return found - _NEVER_OWNED


def _differs(schema: Schema, live: dict[str, Any], merged: dict[str, Any]) -> bool:
    changed: Paths = set()
    removed: Paths = set()
    compare(schema, live, merged, (), changed, removed)
    return bool((changed | removed) - _NEVER_OWNED)


def _resolve_conflicts(entries: dict[tuple[str, ...], _Entry], manager: Manager, changed: Paths, force: bool) -> None:
    contested = [
        (entry, sorted(entry.paths & changed))
        for identity, entry in sorted(entries.items())
        if identity != manager.identity and not entry.paths.isdisjoint(changed)
    ]
    if contested and not force:
        raise _conflict([(entry.manager.shown(entry.time), path) for entry, paths in contested for path in paths])
    for entry, paths in contested:
        entry.paths.difference_update(paths)


def _conflict(contested: list[tuple[str, Path]]) -> ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": dotted(path)}
        for manager, path in contested
    ]
    if len(contested) == 1:
        text = f"1 conflict: conflict with {contested[0][0]}: {dotted(contested[0][1])}"
    else:
        by_manager: dict[str, list[str]] = {}
        for manager, path in contested:
            by_manager.setdefault(manager, []).append(f"- {dotted(path)}")
        lines = [line for manager, paths in by_manager.items() for line in (f"conflicts with {manager}:", *paths)]
        text = f"{len(contested)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", f"Apply failed with {text}", {"causes": causes})


def _merge(schema: Schema, live: Any, config: Any) -> Any:
    if _granular_map(schema, live) and _granular_map(schema, config):
        merged = dict(live)
        for name, value in config.items():
            merged[name] = _merge(_below(schema, name), live[name], value) if name in live else value
        return merged
    if _granular_list(schema, live) and _granular_list(schema, config):
        items = schema.items or ANYTHING
        present, applied = _items(schema, live), _items(schema, config)
        kept = [_merge(items, item, applied[key]) if key in applied else item for key, item in present.items()]
        return kept + [item for key, item in applied.items() if key not in present]
    return config


def _remove(schema: Schema, obj: Any, paths: Paths) -> None:
    """Remove `paths` from `obj`, and maps and lists that become empty; shared parts are copied before a change."""
    by_first: dict[str, Paths] = {}
    for path in paths:
        by_first.setdefault(path[0], set()).add(path[1:])
    in_list = isinstance(obj, list)
    keys = {item_key(schema, item): index for index, item in enumerate(obj)} if in_list else {}
    to_delete: list[Any] = []
    for element, rests in by_first.items():
        at = keys.get(element) if in_list else element[2:]
        if at is None or (not in_list and at not in obj):
            continue
        if () in rests:
            to_delete.append(at)
            continue
        below = (schema.items or ANYTHING) if in_list else _below(schema, element[2:])
        if in_list:  # an item keeps its keys, which identify it
            rests = rests - {(f"f:{name}",) for name in schema.keys}
        obj[at] = inner = obj[at].copy() if isinstance(obj[at], dict | list) else obj[at]
        if isinstance(inner, dict | list) and inner:
            _remove(below, inner, rests)
            if not inner:
                to_delete.append(at)
    for at in sorted(to_delete, reverse=True):
        del obj[at]
