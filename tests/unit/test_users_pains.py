"""What users of the other chart ran into has tests here: the table in docs/adoption.md, held against the tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adoption.md").read_text(encoding="utf-8")
FACTS = ROOT.parent / "shared" / "reference" / "FACTS.md"

NUMBER = re.compile(r"\b\d{3,4}\b")
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def rows() -> list[tuple[str, str]]:
    """Return the first and the last cell of every row of the table."""
    table = PAGE.partition("| there | here | tests |")[2]
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    return [(cells[1].strip(), cells[-2]) for cells in (line.split("|") for line in lines)]


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the tests of a file, those of a class as `Class::test`."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(found)


@pytest.mark.parametrize(("pain", "named"), rows(), ids=[pain.partition(":")[0] for pain, _ in rows()])
def test_a_pain_has_tests_that_are_there(pain: str, named: str) -> None:
    tests = TEST.findall(named)

    assert tests, f"{pain}: no test is named"
    for file, name in tests:
        assert (ROOT / file).exists(), f"{pain}: there is no {file}"
        assert name in names_in(file), f"{pain}: {file} has no {name}"


@pytest.mark.skipif(not FACTS.exists(), reason=f"{FACTS} is not here")
def test_every_pain_that_is_known_is_in_the_table() -> None:
    line = FACTS.read_text(encoding="utf-8").partition("What its users ran into")[2].partition("\n- ")[0]
    known = {number for group in re.findall(r"\(([\d, ]+)\)", line) for number in NUMBER.findall(group)}

    assert known
    assert known <= {number for pain, _ in rows() for number in NUMBER.findall(pain.partition(":")[0])}
