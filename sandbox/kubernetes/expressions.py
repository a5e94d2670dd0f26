"""CEL expressions: compiled once, evaluated over plain JSON values.

The language is Google's own implementation (`cel-expr-python`) with the extension libraries that Kubernetes has on and
the functions in `expression_functions`. Variables are dynamic where a schema knows more: a rule that names a field that
its object cannot have fails when it is evaluated, while the real server refuses the definition. Costs are not limited.
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
"""What a variable may be declared as. Numbers are `any`: Kubernetes compares integers with floats, the library's
checker does not."""

Variables = tuple[tuple[str, str], ...]
"""Names and keys of TYPES, in one order, so that environments can be shared."""


class BrokenExpression(Exception):
    """An expression that does not compile; says where and why."""


class EvaluationError(Exception):
    """An expression that has no value for this input: a missing key, a division by zero, a wrong type."""


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
        """`bool`, `string`, `dyn` …: what the expression is known to give."""

    def value(self, values: Mapping[str, Any]) -> Any:
        """What the expression gives for these variables. Raises EvaluationError."""
        return _plain(self._compiled.eval(data=values))


def _plain(value: Any) -> Any:
    """A value of the library as Python's. Raises EvaluationError.

    An optional value has no such form: alone it shows itself as an error without words, and the library's own
    conversion of a map that holds one ends the process. So containers are taken apart here.
    """
    kind = value.type()
    if kind == cel.Type.ERROR:
        try:
            said = str(value.plain_value())
        except TypeError:
            raise EvaluationError("an optional value is no result; take orValue(…) of it") from None
        raise EvaluationError(_said(said))
    found = value.value()
    if isinstance(found, dict):
        return {key: _plain(item) for key, item in found.items()}
    if isinstance(found, list):
        return [_plain(item) for item in found]
    return value.plain_value()


@lru_cache(8192)
def compile_expression(text: str, variables: Variables) -> Expression:
    """Raises BrokenExpression."""
    try:
        return Expression(_environment(variables).compile(text))
    except RuntimeError as error:
        detail = re.sub(r" \[[A-Z_]+\]$", "", str(error)).removeprefix("INVALID_ARGUMENT: ")
        raise BrokenExpression(f"compilation failed: {detail}") from error


def compiles(text: str, variables: Variables) -> bool:
    try:
        compile_expression(text, variables)
    except BrokenExpression:
        return False
    return True


_WORDS: tuple[tuple[str, str], ...] = (
    (r'^NOT_FOUND: Key not found in map : "?([^"]*)"?$', r"no such key: \1"),
    (r"^UNKNOWN: Index error: index=(-?\d+) size=\d+$", r"index out of bounds: \1"),
    (r"^INVALID_ARGUMENT: divide by zero$", "division by zero"),
    (r"^UNKNOWN: No matching overloads found.*$", "no such overload"),
    (r"^INVALID_ARGUMENT: Applying SELECT to non-message type$", "no such overload"),
    (r"^[A-Z_]+: ", ""),
)


def _said(error: str) -> str:
    """An error in the words of the real server's implementation."""
    for pattern, words in _WORDS:
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
    """How an expression names a field: `x-prop` is `x__dash__prop`, `namespace` is `__namespace__`."""
    if name in _RESERVED:
        return f"__{name}__"
    return re.sub(r"__|[./-]", lambda found: _ESCAPES[found[0]], name)


def variables(names: Iterable[tuple[str, str]]) -> Variables:
    return tuple(sorted(names))
