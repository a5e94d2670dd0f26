"""Frozen values: what `replace` and the JSON form do, and what mypy says of a misspelt field."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.runtime.values import Value, from_json, replace, to_json


@dataclass(frozen=True, kw_only=True)
class Part(Value):
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class Whole(Value):
    name: str = ""
    part: Part = Part()


def test_replace_changes_a_copy() -> None:
    before = Whole(name="a")
    after = replace(before, part=Part(count=2))
    assert (before, after) == (Whole(name="a"), Whole(name="a", part=Part(count=2)))
    with pytest.raises(FrozenInstanceError):
        after.name = "b"  # type: ignore[misc]


def test_the_json_form_goes_both_ways_and_refuses_unknown_fields() -> None:
    whole = Whole(name="a", part=Part(count=2))
    assert to_json(whole) == {"name": "a", "part": {"count": 2}}
    assert from_json(Whole, b'{"name":"a","part":{"count":2}}') == whole
    with pytest.raises(ValidationError):
        from_json(Whole, b'{"part":{"number":2}}')


@pytest.mark.parametrize(("change", "wrong"), [("nmae='b'", "nmae"), ("name=2", '"int"')])
def test_mypy_refuses_a_change_of_no_field_or_of_another_type(tmp_path: Path, change: str, wrong: str) -> None:
    source = tmp_path / "change.py"
    imports = "from engine.runtime.values import replace\nfrom tests.unit.test_values import Whole\n"
    source.write_text(f"{imports}replace(Whole(), {change})\n")
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", str(source)], capture_output=True, text=True)
    assert done.returncode == 1
    assert wrong in done.stdout.splitlines()[0]
