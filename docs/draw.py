"""Draws the state machines from their tables into `docs/architecture.md`: `python docs/draw.py`.

A test calls `drawn()` and compares, so that the pictures cannot say anything else than the code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from engine.listener import state as listener
from engine.operator import state as operator

PAGE = Path(__file__).with_name("architecture.md")

TABLES: Mapping[str, Mapping[tuple[StrEnum, str], StrEnum]] = {
    "revision": listener.TRANSITIONS,
    "deployment": listener.DEPLOYMENT_TRANSITIONS,
    "lgp": operator.TRANSITIONS,
}
"""Name of the block in the page → transition table."""


def diagram(table: Mapping[tuple[StrEnum, str], StrEnum]) -> str:
    """Return a Mermaid state diagram of a transition table."""
    first = next(iter(table))[0]
    last = {target for target in table.values() if not any(source == target for source, _ in table)}
    lines = ["stateDiagram-v2", f"    [*] --> {first.value}"]
    lines += [f"    {source.value} --> {target.value}: {event}" for (source, event), target in table.items()]
    lines += [f"    {state.value} --> [*]" for state in sorted(last)]
    return "\n".join(lines)


def drawn(page: str) -> str:
    """Return the page with every block drawn anew."""
    for name, table in TABLES.items():
        block = f"<!-- drawn: {name} -->\n```mermaid\n{diagram(table)}\n```\n<!-- end -->"
        page = re.sub(rf"<!-- drawn: {name} -->.*?<!-- end -->", lambda _, b=block: b, page, flags=re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
