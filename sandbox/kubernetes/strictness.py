"""Fields that a request body has twice: parsers keep the last one, so the API server reports the repetition.

As in a real server, the report on a JSON body has the path of the field, the report on a YAML body the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml


class _Pairs(tuple[tuple[str, Any], ...]):
    """The fields of a JSON object, including repeated ones."""

    __slots__ = ()


def repeated_in_json(raw: bytes) -> list[str]:
    """Return `duplicate field "data.a"` for every repeated field of a valid JSON document."""
    repeats = False

    def note(pairs: list[tuple[str, Any]]) -> _Pairs:
        nonlocal repeats
        repeats = repeats or len({name for name, _ in pairs}) < len(pairs)
        return _Pairs(pairs)

    document = json.loads(raw, object_pairs_hook=note)
    return [f'duplicate field "{path}"' for path in _paths(document, "")] if repeats else []


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for name, below in value:
            at = f"{path}.{name}" if path else name
            if name in seen:
                yield at
            seen.add(name)
            yield from _paths(below, at)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, f"{path}[{index}]")


def repeated_in_yaml(raw: bytes) -> list[str]:
    """Return `line 5: key "name" already set in map` for every repeated key of a valid YAML document."""
    try:
        if not repeated_in_json(raw):  # JSON is YAML, most clients send JSON, and this parser is much faster
            return []
    except ValueError:
        pass
    return list(_lines(yaml.compose(raw, yaml.CSafeLoader)))


def _lines(node: yaml.Node | None) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield f'line {key.start_mark.line + 1}: key "{key.value}" already set in map'
            seen.add(key.value)
            yield from _lines(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _lines(item)
