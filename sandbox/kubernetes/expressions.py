"""CEL expressions: compiled once, evaluated with plain JSON values.

The implementation is Google's `cel-expr-python`, with the extension libraries that Kubernetes enables and the functions
of `expression_functions`. Variables have dynamic types, not those of a schema. A rule with an undeclared field
therefore fails when it is evaluated; a real server refuses the CustomResourceDefinition. Costs are not limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings

from sandbox.kubernetes import expression_functions

TYPES: dict[str, Any] = {
    "object": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
    "array": cel.Type.LIST,
    "string": cel.Type.STRING,
    "boolean": cel.Type.BOOL,
    "any": cel.Type.DYN,
}
"""The types of variables. Numbers are `any`: Kubernetes compares integers with floats, the type checker of the library
does not."""

Variables = tuple[tuple[str, str], ...]
"""Pairs of a name and a key of TYPES, sorted, so that equal sets share an environment."""


class BrokenExpression(Exception):
    """An expression does not compile; the message says where and why."""


class EvaluationError(Exception):
    """An expression has no value for its variables: a missing key, a division by zero, a wrong type."""


@lru_cache
def _environment(variables: Variables) -> Any:
    extensions = [
        ext_strings.ExtStrings(),
        ext_optional.ExtOptional(),
        ext_math.ExtMath(),
        ext_encoders.ExtEncoders(),
        ext_bindings.ExtBindings(),
    ]
    declared = {name: TYPES[kind] for name, kind in variables}
    return cel.NewEnv(variables=declared, extensions=extensions, functions=list(expression_functions.declarations()))


class Expression:
    """One compiled expression."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self.type: str = compiled.return_type().name().lower()
        """The type of the result: `bool`, `string`, …, or `dyn` when it is known only at run time."""

    def value(self, values: Mapping[str, Any]) -> Any:
        """Return the result of the expression for these variables. Raises EvaluationError."""
        return _plain(self._compiled.eval(data=values))


def _plain(value: Any) -> Any:
    """Convert a value of the library to a Python value. Raises EvaluationError.

    Optional values cannot be converted: the library gives an error without a message for one, and its conversion of a
    map with an optional value crashes the process. This function therefore converts lists and maps item by item.
    """
    kind = value.type()
    if kind == cel.Type.ERROR:
        try:
            message = str(value.plain_value())
        except TypeError:
            raise EvaluationError("the result is an optional value; use orValue(…)") from None
        raise EvaluationError(_kubernetes_message(message))
    found = value.value()
    if isinstance(found, dict):
        return {key: _plain(item) for key, item in found.items()}
    if isinstance(found, list):
        return [_plain(item) for item in found]
    return value.plain_value()


@lru_cache(8192)
def compile_expression(text: str, variables: Variables) -> Expression:
    """Compile an expression. Raises BrokenExpression."""
    try:
        return Expression(_environment(variables).compile(text))
    except RuntimeError as error:
        detail = re.sub(r" \[[A-Z_]+\]$", "", str(error)).removeprefix("INVALID_ARGUMENT: ")
        raise BrokenExpression(f"compilation failed: {detail}") from error


def compiles(text: str, variables: Variables) -> bool:
    """Whether an expression compiles."""
    try:
        compile_expression(text, variables)
    except BrokenExpression:
        return False
    return True


_MESSAGES: tuple[tuple[str, str], ...] = (
    (r'^NOT_FOUND: Key not found in map : "?([^"]*)"?$', r"no such key: \1"),
    (r"^UNKNOWN: Index error: index=(-?\d+) size=\d+$", r"index out of bounds: \1"),
    (r"^INVALID_ARGUMENT: divide by zero$", "division by zero"),
    (r"^UNKNOWN: No matching overloads found.*$", "no such overload"),
    (r"^INVALID_ARGUMENT: Applying SELECT to non-message type$", "no such overload"),
    (r"^[A-Z_]+: ", ""),
)


def _kubernetes_message(error: str) -> str:
    """Return an error message of the library in the words of Kubernetes' CEL implementation."""
    for pattern, words in _MESSAGES:
        if re.search(pattern, error):
            return re.sub(pattern, words, error)
    return error


# names

_RESERVED = frozenset(
    ("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
     "let", "loop", "package", "namespace", "return")
)  # fmt: skip
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}


def field_name(name: str) -> str:
    """Return a field's name in expressions: `x-prop` is `x__dash__prop`, `namespace` is `__namespace__`."""
    if name in _RESERVED:
        return f"__{name}__"
    return re.sub(r"__|[./-]", lambda found: _ESCAPES[found[0]], name)


def variables(names: Iterable[tuple[str, str]]) -> Variables:
    """Return declarations of variables from pairs of a name and a key of TYPES."""
    return tuple(sorted(names))
