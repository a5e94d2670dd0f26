"""CEL expressions of the embedded API server: values that Python cannot represent are errors and crash no process."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.kubernetes.expressions import EvaluationError, compile_expression, variables
from sandbox.kubernetes.schema import format_check

KNOWN = variables([("self", "any")])
OBJECT = {"name": "web", "parts": [{"count": 1}, {"count": None}]}


def value(text: str) -> Any:
    return compile_expression(text, KNOWN).value({"self": OBJECT})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("self", OBJECT),
        ("self.parts.map(part, part.count)", [1, None]),
        ("{'a': [1u, 2.5, true, b'x']}", {"a": [1, 2.5, True, b"x"]}),
        ("self[?'name'].orValue('')", "web"),
        ("self.?missing.hasValue()", False),
    ],
)
def test_values(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "self.?name",
        "optional.none()",
        "[optional.of(1)]",
        "{'a': optional.none()}",
        "{'a': [{'b': optional.of(1)}]}",
        "self.parts.map(part, part[?'count'])",
    ],
)
def test_an_optional_value_is_no_result(text: str) -> None:
    with pytest.raises(EvaluationError, match="optional value"):
        value(text)


def test_an_error_inside_a_list() -> None:
    with pytest.raises(EvaluationError, match="division by zero"):
        value("[1 / 0]")


def test_text_with_characters_outside_base64_is_not_base64() -> None:
    check = format_check("byte")
    assert check is not None
    assert check("YQ==", "spec.code") is None
    assert check("ü", "spec.code") is not None
