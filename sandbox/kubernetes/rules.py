"""The CEL rules of custom resources (`x-kubernetes-validations`): read from a schema, checked on every write.

In a rule, `self` is the value, with field names escaped for CEL, and `oldSelf` the value before the write. A value is
matched with its earlier value by field, by map key, or by the keys of a list map; items of other lists have no earlier
value. A rule without `oldSelf` does not refuse a write that leaves its value unchanged: it warns ("ratcheting").
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sandbox.kubernetes.expressions import (
    BrokenExpression,
    EvaluationError,
    Variables,
    compile_expression,
    compiles,
    field_name,
    variables,
)
from sandbox.kubernetes.status import Cause, Causes, required, unsupported, wrong

if TYPE_CHECKING:
    from sandbox.kubernetes.schema import Schema

Object = dict[str, Any]

NO_BEFORE: Any = object()
"""The absence of an earlier value; distinct from null."""

REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_OPTIONAL = "cel.bind(oldSelf, hasBefore ? optional.of(before) : optional.none(), ({}))"
_ROOT = "<nil>"
"""The path of the object itself, as Go prints it."""


@dataclass(frozen=True, eq=False)
class Rule:
    """One entry of `x-kubernetes-validations`."""

    kind: str
    """The type in the schema, for messages."""
    declared: str
    """The type of `self` and `oldSelf` in the expression, a key of `expressions.TYPES`."""
    rule: str
    message: str = ""
    message_expression: str = ""
    reason: str = "FieldValueInvalid"
    field_path: str = ""
    optional: bool = False
    """Whether `oldSelf` is an optional value; the rule is then checked even without an earlier value."""

    @classmethod
    def read(cls, schema: Mapping[str, Any], spec: Mapping[str, Any]) -> Rule:
        """Return a rule from a node of an OpenAPI schema and the rule's specification."""
        kind = "" if schema.get("x-kubernetes-int-or-string") else schema.get("type", "")
        known = kind in ("object", "array", "boolean") or (kind == "string" and schema.get("format") not in _FORMATS)
        return cls(
            kind=kind,
            declared=kind if known else "any",
            rule=str(spec.get("rule") or "").strip(),
            message=str(spec.get("message") or "").strip(),
            message_expression=str(spec.get("messageExpression") or "").strip(),
            reason=spec.get("reason") or "FieldValueInvalid",
            field_path=_readable(str(spec.get("fieldPath") or "").strip()),
            optional=bool(spec.get("optionalOldSelf")),
        )

    @cached_property
    def uses_before(self) -> bool:
        """Whether the rule uses `oldSelf`: it then compiles with `oldSelf`, but not without."""
        alone = variables([("self", self.declared)])
        return "oldSelf" in self.rule and not compiles(self.rule, alone) and compiles(*self._source(self.rule))

    def _source(self, text: str) -> tuple[str, Variables]:
        """Return the expression to compile, and its variables."""
        if self.optional:
            names = [("self", self.declared), ("before", "any"), ("hasBefore", "boolean")]
            return _OPTIONAL.format(text), variables(names)
        return text, variables([("self", self.declared), ("oldSelf", self.declared)])

    def compile(self, text: str) -> Any:
        """Compile an expression of this rule. Raises BrokenExpression."""
        if "oldSelf" not in text:
            return compile_expression(text, variables([("self", self.declared)]))
        return compile_expression(*self._source(text))

    def check(self, now: Any, before: Any, path: str) -> Cause | None:
        """Return the cause for a value that breaks this rule, else None; values have the form of `to_cel`."""
        if self.uses_before and before is NO_BEFORE and not self.optional:
            return None
        absent = before is NO_BEFORE
        values = {"self": now, "oldSelf": None if absent else before}
        values |= {"before": values["oldSelf"], "hasBefore": not absent}
        try:
            passed = self.compile(self.rule).value(values)
        except BrokenExpression as error:
            return wrong(path or _ROOT, self.kind, f"rule compile error: {error}")
        except EvaluationError as error:
            return wrong(path or _ROOT, self.kind, self._failure(str(error)))
        if passed is True:
            return None
        at = f"{path}{self.field_path}".lstrip(".") if self.field_path else path
        return self._cause(at or _ROOT, self._text(values))

    def _failure(self, error: str) -> str:
        named = self.message or self.rule
        if error == "no such overload":
            words = "call arguments did not match a supported operator, function or macro signature for rule"
            return f"'{error}': {words}: {named}"
        return f"{error} evaluating rule: {named}"

    def _text(self, values: Object) -> str:
        """Return the message for a value that breaks the rule."""
        if self.message_expression:
            try:
                message = str(self.compile(self.message_expression).value(values)).strip()
            except (BrokenExpression, EvaluationError):
                message = ""
            if message and "\n" not in message and len(message) <= 5120:
                return message
        return self.message or f"failed rule: {self.rule}"

    def _cause(self, path: str, words: str) -> Cause:
        shown = {
            "FieldValueForbidden": f"Forbidden: {words}",
            "FieldValueRequired": f"Required value: {words}",
            "FieldValueDuplicate": f'Duplicate value: "{self.kind}"',
        }
        if self.reason in shown:
            return (self.reason, shown[self.reason], path)
        return wrong(path, self.kind, words)


# the rules of a CustomResourceDefinition


def check_specs(spec: Object, path: str, uncorrelatable: str) -> Iterator[Cause]:
    """Yield what is wrong with the rules of one schema node of a CustomResourceDefinition.

    `uncorrelatable` is the path of the list above, if any, whose items cannot be matched with earlier items.
    """
    for index, entry in enumerate(one or {} for one in spec.get("x-kubernetes-validations") or ()):
        at = f"{path}.x-kubernetes-validations[{index}]"
        causes = [*_check_texts(entry, at), *_check_field_path(spec, entry, at)]
        yield from causes
        if not causes:
            rule = Rule.read(spec, entry)
            yield from _check_expressions(rule, entry, at)
            if uncorrelatable and rule.uses_before:
                words = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {uncorrelatable}"
                yield wrong(f"{at}.rule", rule.rule, words)


def _check_texts(entry: Object, at: str) -> Iterator[Cause]:
    rule, message = (str(entry.get(name) or "") for name in ("rule", "message"))
    if not rule.strip():
        yield required(f"{at}.rule", "rule is not specified")
    elif message and not message.strip():
        yield wrong(f"{at}.message", message, "must be non-empty if specified")
    elif "\n" in message.strip():
        yield wrong(f"{at}.message", message, "must not contain line breaks")
    elif "\n" in rule.strip() and not message.strip():
        yield required(f"{at}.message", "message must be specified if rule contains line breaks")
    if entry.get("messageExpression") and not entry["messageExpression"].strip():
        yield required(f"{at}.messageExpression", "messageExpression must be non-empty if specified")
    if entry.get("reason") and entry["reason"] not in REASONS:
        yield unsupported(f"{at}.reason", entry["reason"], REASONS)


_STEP = re.compile(r"\.([^.\[\]]+)|\['((?:[^'\\]|\\.)*)'\]")


def _check_field_path(spec: Object, entry: Object, at: str) -> Iterator[Cause]:
    text = str(entry.get("fieldPath") or "")
    if not text:
        return
    place, node = 0, spec
    while match := _STEP.match(text, place):
        name = match[1] or match[2]
        below = (node.get("properties") or {}).get(name) if node.get("properties") else node.get("additionalProperties")
        if not isinstance(below, dict):
            break
        node, place = below, match.end()
    if place < len(text):
        yield wrong(f"{at}.fieldPath", text, "must be a valid path")


def _readable(field_path: str) -> str:
    """Return a path as Go prints it: `.spec['a b']` becomes `.spec.a b`."""
    return _STEP.sub(lambda step: f".{step[1] or step[2]}", field_path)


def _check_expressions(rule: Rule, entry: Object, at: str) -> Iterator[Cause]:
    try:
        found = rule.compile(rule.rule)
        if found.type not in ("bool", "dyn"):
            yield wrong(f"{at}.rule", entry, "cel expression must evaluate to a bool")
    except BrokenExpression as error:
        yield wrong(f"{at}.rule", entry, str(error))
        return
    if rule.message_expression:
        try:
            if rule.compile(rule.message_expression).type not in ("string", "dyn"):
                yield wrong(f"{at}.messageExpression", entry, "messageExpression must evaluate to a string")
        except BrokenExpression as error:
            yield wrong(f"{at}.messageExpression", entry, f"messageExpression {error}")
    if "optionalOldSelf" in entry and not rule.uses_before:
        yield wrong(f"{at}.optionalOldSelf", entry["optionalOldSelf"], "may not be set if oldSelf is not used in rule")


# the values of an object

_BLOCKING = ("FieldValueRequired", "FieldValueNotSupported", "FieldValueTooLong", "FieldValueTooMany",
             "FieldValueTypeInvalid")  # fmt: skip
_BLOCKED = (
    "some validation rules were not checked because the object was invalid; correct the existing errors to complete "
    "validation"
)


def check_rules(schema: Schema, obj: Object, before: Object | None, causes: Causes, warnings: list[str]) -> None:
    """Add a cause for every rule that the object breaks; only a warning if the write does not change the value."""
    if not schema.has_rules:
        return
    if any(reason in _BLOCKING for reason, _, _ in causes):
        causes.append(wrong(_ROOT, None, _BLOCKED))
        return
    for cause, ratcheted in _check(schema, _visible(obj), NO_BEFORE if before is None else _visible(before), "", False):
        if ratcheted:
            warnings.append(f"{cause[2]}: {cause[1]}")
        else:
            causes.append(cause)


def _visible(obj: Object) -> Object:
    """Return the object as rules see it: the metadata has only `name` and `generateName`."""
    names = {key: value for key, value in obj["metadata"].items() if key in ("name", "generateName")}
    return {**obj, "metadata": names}


def _check(schema: Schema, value: Any, before: Any, path: str, same: bool) -> Iterator[tuple[Cause, bool]]:
    """Yield the causes of a value and of all values below it, each with whether it is only a warning.

    `same`: whether the write leaves the nearest value above that has an earlier value unchanged.
    """
    if value is None:
        return
    if before is not NO_BEFORE:
        same = value == before
    if schema.rules:
        now = to_cel(schema, value)
        then = NO_BEFORE if before is NO_BEFORE or before is None else to_cel(schema, before)
        for rule in schema.rules:
            cause = rule.check(now, then, path)
            if cause is not None:
                yield cause, same and not rule.uses_before
    if isinstance(value, dict):
        for name, found in value.items():
            below = schema.properties.get(name)
            at = f"{path}.{name}" if path else name
            if below is None:
                below, at = schema.values, f"{path}[{name}]"
            if below is not None and below.has_rules:
                earlier = before.get(name, NO_BEFORE) if isinstance(before, dict) else NO_BEFORE
                yield from _check(below, found, earlier, at, same)
    elif isinstance(value, list) and schema.items is not None and schema.items.has_rules:
        earlier = counterparts(schema, value, before)
        for index, (item, then) in enumerate(zip(value, earlier, strict=True)):
            yield from _check(schema.items, item, then, f"{path}[{index}]", same)


def counterparts(schema: Schema, items: list[Any], before: Any) -> list[Any]:
    """Return the earlier value of each item of a list map; NO_BEFORE for new items, and for items of other lists."""
    if not schema.keys or not isinstance(before, list):
        return [NO_BEFORE] * len(items)
    known = {_key(schema, item): item for item in reversed(before) if isinstance(item, dict)}
    return [known.get(_key(schema, item), NO_BEFORE) if isinstance(item, dict) else NO_BEFORE for item in items]


def _key(schema: Schema, item: Object) -> tuple[Any, ...]:
    """Return the keys of an item of a list map; before validation they may have any type."""
    values = (item.get(name) for name in schema.keys)
    return tuple(str(value) if isinstance(value, dict | list) else value for value in values)


_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def _duration(text: str) -> Duration:
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
    found = Duration()
    found.FromTimedelta(timedelta(seconds=-seconds if text.startswith("-") else seconds))
    return found


def _timestamp(text: str) -> Timestamp:
    found = Timestamp()
    found.FromJsonString(text if "T" in text.upper() else f"{text}T00:00:00Z")
    return found


_FORMATS: dict[str, Callable[[str], Any]] = {
    "date-time": _timestamp,
    "date": _timestamp,
    "duration": _duration,
    "byte": base64.b64decode,
}
"""Formats of strings that have a type of their own in expressions."""


def to_cel(schema: Schema, value: Any) -> Any:
    """Return a value for an expression: field names escaped for CEL, no nulls, numbers and formats with their types."""
    if isinstance(value, dict):
        declared = schema.properties
        return {
            (field_name(name) if name in declared else name): to_cel(declared.get(name) or schema.values or schema, at)
            for name, at in value.items()
            if at is not None or name not in declared
        }
    if isinstance(value, list):
        return [to_cel(schema.items or schema, item) for item in value]
    if schema.type == "number" and isinstance(value, int):
        return float(value)
    convert = _FORMATS.get(schema.source.get("format", "")) if schema.type == "string" else None
    if convert is None or not isinstance(value, str):
        return value
    try:
        return convert(value)
    except (ValueError, OverflowError):
        return value
