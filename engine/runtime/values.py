"""Values: frozen dataclasses that states are made of, how one is changed, and their JSON form.

A state, and every part of one, is `@dataclass(frozen=True, kw_only=True) class …(Value)`. mypy checks each change of
a field: a misspelt field, or a value of another type, is an error of the type check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter

from engine.event import Json, JsonObject


class Value:
    """Base of the values. Their JSON form refuses fields that the class does not have."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


V = TypeVar("V", bound=Value)


if TYPE_CHECKING:
    from dataclasses import replace as replace  # mypy knows this name, and checks the fields of every call
else:

    def replace(value: V, /, **changes: Any) -> V:
        """Return a copy of `value` with some fields changed.

        A fold does this for every event. `dataclasses.replace` would run `__init__`, which costs a frozen dataclass one
        call for each of its fields.
        """
        changed = object.__new__(type(value))
        changed.__dict__.update(value.__dict__)
        changed.__dict__.update(changes)
        return changed


def to_json(value: Value) -> Json:
    """Return the JSON form of `value`."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_json(cls: type[V], encoded: bytes) -> V:
    """Return the value of class `cls` whose JSON form is `encoded`. Raises pydantic.ValidationError."""
    value: V = _adapter(cls).validate_json(encoded)
    return value


def schema(cls: type[Value]) -> JsonObject:
    """Return the JSON schema of the values of class `cls`."""
    return _adapter(cls).json_schema()


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    if cls not in _adapters:
        _adapters[cls] = TypeAdapter(cls)
    return _adapters[cls]
