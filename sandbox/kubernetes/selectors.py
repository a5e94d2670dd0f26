"""Label and field selectors: those in queries of list, watch and deletecollection, and LabelSelector objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sandbox.kubernetes.status import bad_request

Labels = Mapping[str, str]
Requirement = Callable[[Labels], bool]

_SETTING = re.compile(r"^\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*$")
_EQUALITY = re.compile(r"^\s*([^\s=!]+)\s*(==|=|!=)\s*([^\s=!]*)\s*$")
_ORDER = re.compile(r"^\s*([^\s<>=!]+)\s*([<>])\s*(-?\d+)\s*$")
_EXISTENCE = re.compile(r"^\s*(!?)\s*([A-Za-z0-9](?:[A-Za-z0-9./_-]*[A-Za-z0-9])?)\s*$")


def _requirement(text: str) -> Requirement:
    if match := _SETTING.match(text):
        key, operator, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _EQUALITY.match(text):
        key, operator, value = match.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _ORDER.match(text):
        key, operator, limit = match.groups()
        more = operator == ">"
        return lambda labels: (
            (found := _integer(labels.get(key))) is not None and (found > int(limit) if more else found < int(limit))
        )
    if match := _EXISTENCE.match(text):
        absent, key = match.groups()
        return (lambda labels: key not in labels) if absent else (lambda labels: key in labels)
    raise bad_request(
        f"unable to parse requirement: found {text.strip()!r} in a selector, expected key, operator and value"
    )


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


@lru_cache(1024)
def label_selector(text: str) -> Requirement:
    """Compile `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Raises ApiError 400."""
    parts = [part for part in re.split(r",(?![^(]*\))", text) if part.strip()]
    requirements = [_requirement(part) for part in parts]
    return lambda labels: all(requirement(labels) for requirement in requirements)


def object_selector(selector: Mapping[str, Any]) -> Requirement:
    """Compile a LabelSelector object (matchLabels, matchExpressions)."""
    exact: Mapping[str, str] = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or ()

    def matches(labels: Labels) -> bool:
        if any(labels.get(key) != value for key, value in exact.items()):
            return False
        return all(_expression(expression, labels) for expression in expressions)

    return matches


OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
"""Operators in the matchExpressions of a LabelSelector object."""


def _expression(expression: Mapping[str, Any], labels: Labels) -> bool:
    found = labels.get(expression["key"])
    values = expression.get("values") or ()
    return {
        "In": found in values,
        "NotIn": found not in values,
        "Exists": found is not None,
        "DoesNotExist": found is None,
    }[expression["operator"]]


def selector_text(selector: Mapping[str, Any]) -> str:
    """Return a LabelSelector object in the form of a query, as the scale subresource has it."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression["key"], expression["operator"]
        listed = ",".join(expression.get("values") or ())
        forms = {
            "In": f"{key} in ({listed})",
            "NotIn": f"{key} notin ({listed})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        parts.append(forms[operator])
    return ",".join(parts)


_FIELDS: dict[str, tuple[str, ...]] = {
    "": ("metadata.name", "metadata.namespace"),
    "pods": ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase",
             "status.podIP", "status.nominatedNodeName"),
    "events": ("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
               "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
               "reportingComponent", "source", "type"),
    "secrets": ("type",),
    "namespaces": ("status.phase",),
    "nodes": ("spec.unschedulable",),
    "replicasets.apps": ("status.replicas",),
    "services": ("spec.clusterIP", "spec.type"),
}  # fmt: skip
"""Fields that a field selector of a resource may use; those at "" are valid for every resource."""

_FIELD_TERM = re.compile(r"^\s*([^=!]+?)\s*(==|=|!=)\s*(.*?)\s*$")


@lru_cache(1024)
def field_selector(resource: str, text: str) -> Callable[[Mapping[str, Any]], bool]:
    """Compile `metadata.name=x,status.phase!=Running` for a resource. Raises ApiError 400 for an unsupported field."""
    terms: list[tuple[tuple[str, ...], bool, str]] = []
    for part in filter(str.strip, text.split(",")):
        match = _FIELD_TERM.match(part)
        if match is None:
            raise bad_request(f'invalid selector: "{text}"; can\'t understand "{part}"')
        path, operator, value = match.groups()
        if path not in _FIELDS[""] and path not in _FIELDS.get(resource, ()):
            raise bad_request(f'field label not supported: "{path}"')
        terms.append((tuple(path.split(".")), operator != "!=", value))

    def matches(obj: Mapping[str, Any]) -> bool:
        return all((_text_at(obj, path) == value) == equal for path, equal, value in terms)

    return matches


def _text_at(obj: Mapping[str, Any], path: tuple[str, ...]) -> str:
    found: Any = obj
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
        if found is None:
            return "false" if path == ("spec", "unschedulable") else ""
    return str(found).lower() if isinstance(found, bool) else str(found)
