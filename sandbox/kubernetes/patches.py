"""The three patch formats besides server-side apply: JSON patch, merge patch and strategic merge patch."""

from __future__ import annotations

from typing import Any

import jsonpatch
import orjson
from jsonpointer import JsonPointerException

from sandbox.kubernetes.schema import ANYTHING, Schema
from sandbox.kubernetes.status import ApiError, bad_request

Object = dict[str, Any]


def json_patch(original: Object, patch: Any) -> Object:
    """Apply a JSON patch (RFC 6902). Raises ApiError 400 when it is not a list, 422 when it does not fit the object."""
    if not isinstance(patch, list) or not all(isinstance(operation, dict) for operation in patch):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    try:
        operations = jsonpatch.JsonPatch(patch)
    except (jsonpatch.InvalidJsonPatch, JsonPointerException, TypeError, AttributeError) as error:
        raise ApiError(422, "Invalid", f"the patch is not a JSON patch: {error}") from error
    try:
        patched: Object = operations.apply(original)
    except (jsonpatch.JsonPatchException, JsonPointerException, KeyError, TypeError) as error:
        raise ApiError(
            422, "Invalid", f"the server rejected our request due to an error in our request: {error}"
        ) from error
    return patched


def merge_patch(original: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386): null removes a field, maps are merged, other values are replaced."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(original) if isinstance(original, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def strategic_merge_patch(schema: Schema, original: Any, patch: Any) -> Any:
    """Apply a strategic merge patch: lists are merged by the merge keys of the schema.

    It supports the directives that kubectl sends: `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and
    `$setElementOrder`.
    """
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    merged = dict(original) if isinstance(original, dict) else {}
    if "$retainKeys" in patch:
        merged = {name: value for name, value in merged.items() if name in patch["$retainKeys"]}
    for name, value in patch.items():
        command, _, field = name.partition("/")
        if command == "$deleteFromPrimitiveList":
            merged[field] = [item for item in merged.get(field, []) if item not in value]
        elif name.startswith("$"):
            continue
        elif value is None:
            merged.pop(name, None)
        else:
            below = schema.child(name) or ANYTHING
            if isinstance(value, list):
                merged[name] = _merge_list(below, merged.get(name) or [], value)
            else:
                merged[name] = strategic_merge_patch(below, merged.get(name), value)
    for name, order in patch.items():
        command, _, field = name.partition("/")
        if command == "$setElementOrder" and isinstance(merged.get(field), list):
            merged[field] = _ordered(merged[field], order, (schema.child(field) or ANYTHING).merge_key)
    return merged


def _ordered(items: list[Any], order: list[Any], key: str) -> list[Any]:
    """Return the items in the order of `order`; an item that `order` does not name stays behind its predecessor."""
    places = {orjson.dumps(item.get(key) if key else item): place for place, item in enumerate(order)}
    ranks, last = [], -1
    for item in items:
        last = places.get(orjson.dumps(item.get(key) if key else item), last)
        ranks.append(last)
    return [items[index] for index in sorted(range(len(items)), key=lambda index: ranks[index])]


def _merge_list(schema: Schema, original: list[Any], patch: list[Any]) -> list[Any]:
    if schema.is_set:
        return original + [item for item in patch if item not in original]
    if not schema.merge_key:
        return patch
    key = schema.merge_key
    replaced = any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch)
    merged = [] if replaced else list(original)
    for item in patch:
        if not isinstance(item, dict):
            raise bad_request(f"cannot merge {item!r} into a list of objects with merge key {key}")
        directive = item.get("$patch")
        if directive == "replace":
            continue
        if key not in item:
            raise bad_request(f"map: {orjson.dumps(item).decode()} does not contain declared merge key: {key}")
        places = [index for index, found in enumerate(merged) if found.get(key) == item[key]]
        if directive == "delete":
            merged = [found for found in merged if found.get(key) != item[key]]
        elif places:
            merged[places[0]] = strategic_merge_patch(schema.items or ANYTHING, merged[places[0]], item)
        else:
            merged.append(strategic_merge_patch(schema.items or ANYTHING, {}, item))
    return merged
