"""Structural schemas of objects, of the same form for built-in kinds and custom resources.

`kinds` compiles the schemas of built-in kinds from the typed models of the kubernetes client; `compile_openapi`
compiles those of custom resources from their CRD. All code that needs the structure of an object walks a compiled
`Schema`: pruning, defaulting and validation (here), CEL rules (`rules`), field ownership (`apply`), strategic merge
(`patches`), and the published OpenAPI.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from sandbox.kubernetes.rules import NO_BEFORE, Rule, counterparts
from sandbox.kubernetes.status import Cause, Causes, required, show, unsupported, wrong

QUANTITY = "quantity"
"""The `model` of quantities, which may be a number or a string."""
KEPT_EMPTY = "*string"
"""The `model` of optional strings that are stored even if empty."""
DROPPED_ZERO = "zero"
"""The `model` of optional numbers and booleans that are not stored if zero or false."""

NOTHING: Any = object()
"""The absence of a default; distinct from a default of null."""


@dataclass(slots=True, eq=False)
class Schema:
    """One compiled node. An empty `type` accepts every value."""

    type: str = ""
    properties: dict[str, Schema] = field(default_factory=dict)
    values: Schema | None = None
    """Schema of a map's values; such a map is granular in field ownership unless `atomic`."""
    items: Schema | None = None
    required: tuple[str, ...] = ()
    default: Any = NOTHING
    preserve: bool = False
    """Whether unknown fields are kept."""
    embedded: bool = False
    """Whether the value is a complete object with apiVersion, kind and metadata."""
    atomic: bool = False
    """Whether the value is owned and replaced as a whole."""
    is_set: bool = False
    keys: tuple[str, ...] = ()
    """Keys of a list map in server-side apply."""
    merge_key: str = ""
    """Strategic merge key of a list of objects."""
    nullable: bool = False
    int_or_string: bool = False
    built_in: bool = False
    """Compiled from a typed model: empty optional strings, lists and maps count as absent, as in Go."""
    checks: tuple[Callable[[Any, str], Cause | None], ...] = ()
    """Checks beyond the type; each gets the value and its path."""
    model: str = ""
    """Name of the typed model, or one of the constants above."""
    source: dict[str, Any] = field(default_factory=dict)
    """OpenAPI keywords of the CRD, for the published OpenAPI."""
    has_defaults: bool = True
    """Whether this node or one below has a default; `fill` skips subtrees without one."""
    rules: tuple[Rule, ...] = ()
    """CEL rules of this node's value."""
    has_rules: bool = False
    """Whether this node or one below has rules."""

    def child(self, name: str) -> Schema | None:
        """Return the schema of a field or map value; None for an undeclared field."""
        return self.properties.get(name) or self.values


ANYTHING = Schema(preserve=True)

_TYPES: dict[str, Callable[[Any], bool]] = {
    "": lambda value: True,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_EXACT: dict[str, type] = {"string": str, "integer": int, "boolean": bool}


# value checks

Check = Callable[[Any, str], Cause | None]


def _is_date_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).tzinfo is not None and "T" in text.upper()
    except ValueError:
        return False


def time_check(text: Any, path: str) -> Cause | None:
    """Return a type error for text that is not a time: Go decodes times of built-in kinds with the body."""
    if not isinstance(text, str) or _is_date_time(text):
        return None
    return ("FieldValueTypeInvalid", f'Invalid value: "{text}": {path} in body must be a time of RFC 3339', path)


def _is_date(text: str) -> bool:
    try:
        return bool(datetime.strptime(text, "%Y-%m-%d"))
    except ValueError:
        return False


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True)) or not text
    except ValueError:  # wrong padding, or characters outside the alphabet
        return False


def _is_ip(version: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).version == version
        except ValueError:
            return False

    return check


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.match(text) is not None


_HOST_LABEL = "[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?"
_FORMATS: dict[str, Callable[[Any], bool]] = {
    "int32": lambda value: not isinstance(value, int) or -(2**31) <= value < 2**31,
    "int64": lambda value: not isinstance(value, int) or -(2**63) <= value < 2**63,
    "date-time": _is_date_time,
    "date": _is_date,
    "byte": _is_base64,
    "ipv4": _is_ip(4),
    "ipv6": _is_ip(6),
    "uuid": _matches(r"(?i)[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"),
    "email": _matches(r"[^@\s]+@[^@\s]+$"),
    "hostname": _matches(rf"{_HOST_LABEL}(\.{_HOST_LABEL})*$"),
    "uri": _matches(r"[a-zA-Z][a-zA-Z0-9+.-]*:|/"),
}


def format_check(name: str) -> Check | None:
    """Return the check of an OpenAPI `format`, None for a format without a check."""
    known = _FORMATS.get(name)
    if known is None:
        return None
    of_text = name not in ("int32", "int64")

    def check(value: Any, path: str) -> Cause | None:
        if isinstance(value, str) != of_text or known(value):
            return None
        return wrong(path, value, f"{path} in body must be of type {name}: {show(value)}")

    return check


def _limit(
    applies: type | tuple[type, ...], broken: Callable[[Any, Any], bool], words: str, quote: bool = False
) -> Callable[[Any], Check]:
    """Return the compiler of a keyword with one limit as its value, e.g. `maxLength`."""

    def compile_check(limit: Any) -> Check:
        shown = f"'{limit}'" if quote else limit

        def check(value: Any, path: str) -> Cause | None:
            if isinstance(value, applies) and not isinstance(value, bool) and broken(value, limit):
                return wrong(path, value, f"{path} in body {words.format(shown)}")
            return None

        return check

    return compile_check


@lru_cache(1024)
def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern in Go's RE2 syntax. Of the differences to Python's, CRDs use only `\\z`, not `\\pL`."""
    return re.compile(text.replace(r"\z", r"\Z"))


def _enum(choices: list[Any]) -> Check:
    return lambda value, path: None if value in choices else unsupported(path, value, choices)


def _unique(required_unique: bool) -> Check:
    def check(value: Any, path: str) -> Cause | None:
        if required_unique and isinstance(value, list) and len({orjson.dumps(item) for item in value}) < len(value):
            return wrong(path, value, f"{path} in body shouldn't contain duplicates")
        return None

    return check


def _too_long(limit: int) -> Check:
    words = f"Too long: may not be more than {limit} bytes"
    return lambda value, path: (
        ("FieldValueTooLong", words, path) if isinstance(value, str) and len(value) > limit else None
    )


def _too_many(applies: type[Sized]) -> Callable[[int], Check]:
    def compile_check(limit: int) -> Check:
        def check(value: Any, path: str) -> Cause | None:
            if not isinstance(value, applies) or len(value) <= limit:
                return None
            return ("FieldValueTooMany", f"Too many: {len(value)}: must have at most {limit} items", path)

        return check

    return compile_check


_NUMBER = (int, float)
_KEYWORDS: dict[str, Callable[[Any], Check | None]] = {
    "format": format_check,
    "enum": _enum,
    "uniqueItems": _unique,
    "pattern": _limit(str, lambda v, p: not _pattern(p).search(v), "should match {}", quote=True),
    "minimum": _limit(_NUMBER, lambda v, low: v < low, "should be greater than or equal to {}"),
    "maximum": _limit(_NUMBER, lambda v, high: v > high, "should be less than or equal to {}"),
    "minLength": _limit(str, lambda v, low: len(v) < low, "should be at least {} chars long"),
    "maxLength": _too_long,
    "minItems": _limit(list, lambda v, low: len(v) < low, "should have at least {} items"),
    "maxItems": _too_many(list),
    "minProperties": _limit(dict, lambda v, low: len(v) < low, "should have at least {} properties"),
    "maxProperties": _too_many(dict),
    "multipleOf": _limit(_NUMBER, lambda v, unit: v % unit != 0, "should be a multiple of {}"),
}


# compiling a CRD's OpenAPI

_KEPT = ("description", "format", "enum", "pattern", "minimum", "maximum", "title")


def compile_openapi(spec: dict[str, Any], metadata: Schema | None = None) -> Schema:
    """Compile a structural schema. `metadata` is the schema of ObjectMeta, for embedded objects."""
    kind = "" if spec.get("x-kubernetes-int-or-string") else spec.get("type", "")
    list_type = spec.get("x-kubernetes-list-type")
    schema = Schema(
        type=kind,
        required=tuple(spec.get("required", ())),
        default=spec.get("default", NOTHING),
        preserve=bool(spec.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(spec.get("x-kubernetes-embedded-resource")),
        atomic=spec.get("x-kubernetes-map-type") == "atomic" or (kind == "array" and list_type in (None, "atomic")),
        is_set=list_type == "set",
        keys=tuple(spec.get("x-kubernetes-list-map-keys", ())) if list_type == "map" else (),
        nullable=bool(spec.get("nullable")),
        int_or_string=bool(spec.get("x-kubernetes-int-or-string")),
        source={key: spec[key] for key in _KEPT if key in spec},
    )
    schema.properties = {name: compile_openapi(below, metadata) for name, below in spec.get("properties", {}).items()}
    if schema.embedded and metadata is not None:
        schema.properties = {**schema.properties, "apiVersion": STRING, "kind": STRING, "metadata": metadata}
    values = spec.get("additionalProperties")
    if values:
        schema.values = compile_openapi(values, metadata) if isinstance(values, dict) else ANYTHING
    elif kind == "object" and not schema.properties and not schema.preserve:
        schema.properties = {}
    if "items" in spec:
        schema.items = compile_openapi(spec["items"], metadata)
    # The check of a format ignores values of other types: some CRDs combine int32 with int-or-string.
    found = [_KEYWORDS[key](value) for key, value in spec.items() if key in _KEYWORDS and value is not None]
    checks = [check for check in found if check is not None]
    for junctor in ("allOf", "anyOf", "oneOf", "not"):
        if junctor in spec and not schema.int_or_string:
            checks.append(_junction(junctor, spec[junctor]))
    schema.checks = tuple(checks)
    below = [*schema.properties.values(), *filter(None, (schema.values, schema.items))]
    schema.has_defaults = schema.default is not NOTHING or any(child.has_defaults for child in below)
    schema.rules = tuple(Rule.read(spec, rule) for rule in spec.get("x-kubernetes-validations") or ())
    schema.has_rules = bool(schema.rules) or any(child.has_rules for child in below)
    return schema


def _junction(name: str, spec: Any) -> Check:
    """Return the check of allOf, anyOf, oneOf or not; these keywords only narrow a value of the right type."""
    branches = [compile_openapi(branch) for branch in (spec if isinstance(spec, list) else [spec])]

    def check(value: Any, path: str) -> Cause | None:
        failures = []
        for branch in branches:
            causes: Causes = []
            validate(branch, value, path, causes)
            failures.append(causes)
        passed = sum(not causes for causes in failures)
        if name == "allOf":
            return next((causes[0] for causes in failures if causes), None)
        if name == "not":
            return wrong(path, value, f"{path} in body must not validate the schema (not)") if passed else None
        if name == "anyOf" and not passed:
            return wrong(path, value, f"{path} in body must validate at least one schema (anyOf)")
        if name == "oneOf" and passed != 1:
            found = "none" if not passed else f"{passed} valid alternatives"
            return wrong(path, value, f"{path} in body must validate one and only one schema (oneOf). Found {found}")
        return None

    return check


STRING = Schema(type="string", has_defaults=False)


# walking

IDENTITY = frozenset(("apiVersion", "kind", "metadata"))


def prune(schema: Schema, value: Any, unknown: list[str], path: str = "") -> None:
    """Remove undeclared fields in place and add their paths to `unknown`; also remove nulls of non-nullable fields."""
    if isinstance(value, dict) and schema.type in ("object", ""):
        for key in list(value):
            below = schema.child(key)
            if below is not None:
                if value[key] is None and not below.nullable and below.default is NOTHING and not below.preserve:
                    del value[key]
                elif isinstance(value[key], dict | list):
                    prune(below, value[key], unknown, f"{path}.{key}" if path else key)
            elif not schema.preserve:
                unknown.append(f"{path}.{key}" if path else key)
                del value[key]
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            prune(schema.items, item, unknown, f"{path}[{index}]")


def fill(schema: Schema, value: Any) -> None:
    """Set the defaults of fields that are absent (or null but not nullable), in place."""
    if not schema.has_defaults:
        return
    if isinstance(value, dict):
        for name, below in schema.properties.items():
            if below.default is not NOTHING and (name not in value or (value[name] is None and not below.nullable)):
                value[name] = orjson.loads(orjson.dumps(below.default))
            if name in value and below.has_defaults:
                fill(below, value[name])
        if schema.values is not None:
            for item in value.values():
                fill(schema.values, item)
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            fill(schema.items, item)


def drop_empty(schema: Schema, value: Any) -> None:
    """Remove null and empty optional strings, lists and maps in place, as Go's typed objects do."""
    if isinstance(value, dict):
        for key in list(value):
            below = schema.child(key)
            if below is None:
                continue
            found = value[key]
            if found is None and schema.values is None:
                del value[key]
                continue
            if isinstance(found, dict | list):
                drop_empty(below, found)
            if (found == "" or found == [] or (found == {} and below.values is not None)) and (
                schema.built_in and key in schema.properties and key not in schema.required and below.type
            ):
                if below.model != KEPT_EMPTY:
                    del value[key]
            elif below.model == DROPPED_ZERO and not found and key not in schema.required:
                del value[key]
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            drop_empty(schema.items, item)


def validate(schema: Schema, value: Any, path: str, causes: Causes, before: Any = NO_BEFORE) -> None:
    """Add a cause for every violation of types, required fields, keywords and list keys.

    `before` is the value that a write replaces. An invalid value that the write does not change adds no cause
    ("ratcheting").
    """
    known = len(causes)
    _validate(schema, value, path, causes, before)
    if before is not NO_BEFORE and len(causes) > known and value == before:
        del causes[known:]


def _validate(schema: Schema, value: Any, path: str, causes: Causes, before: Any) -> None:
    if value is None:
        if not schema.nullable and schema.type and not schema.built_in:
            causes.append(_type_cause(schema, value, path))
        return
    if schema.int_or_string:
        numbers = int | float if schema.model == QUANTITY else int
        if not isinstance(value, numbers | str) or isinstance(value, bool):
            causes.append(_type_cause(schema, value, path))
            return
    elif not _TYPES[schema.type](value):
        causes.append(_type_cause(schema, value, path))
        return
    for check in schema.checks:
        cause = check(value, path)
        if cause is not None:
            causes.append(cause)
    if isinstance(value, dict):
        for name in (*schema.required, "apiVersion", "kind") if schema.embedded else schema.required:
            if name not in value:
                causes.append(required(f"{path}.{name}" if path else name))
        for key, item in value.items():
            below = schema.properties.get(key) or schema.values
            if below is None or below is ANYTHING:
                continue
            if not below.checks and type(item) is _EXACT.get(below.type):
                continue  # a shortcut: most fields are scalars of the right type without other checks
            earlier = before.get(key, NO_BEFORE) if isinstance(before, dict) else NO_BEFORE
            validate(below, item, f"{path}.{key}" if path else key, causes, earlier)
    elif isinstance(value, list) and schema.items is not None:
        earlier = counterparts(schema, value, before)
        for index, (item, then) in enumerate(zip(value, earlier, strict=True)):
            validate(schema.items, item, f"{path}[{index}]", causes, then)
        if schema.keys or schema.is_set:
            _unique_items(schema, value, path, causes)


def _unique_items(schema: Schema, value: list[Any], path: str, causes: Causes) -> None:
    if schema.built_in:
        return  # `validation` finds those duplicates that the real server refuses
    seen: list[Any] = []
    for index, item in enumerate(value):
        key = {name: item.get(name) for name in schema.keys} if schema.keys and isinstance(item, dict) else item
        if key in seen:
            causes.append(("FieldValueDuplicate", f"Duplicate value: {show(key)}", f"{path}[{index}]"))
        seen.append(key)


def _type_cause(schema: Schema, value: Any, path: str) -> Cause:
    expected = "integer or string" if schema.int_or_string else schema.type
    shown = '"null"' if value is None else f'"{_go_type(value)}"'
    detail = f"{path} in body must be of type {expected}: {shown}"
    return ("FieldValueTypeInvalid", f"Invalid value: {shown}: {detail}", path)


def _go_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names[type(value)]
