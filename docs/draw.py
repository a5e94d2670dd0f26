"""Draws the state machines from their tables into `docs/architecture.md`, and the settings into `docs/settings.md`:
`python docs/draw.py`.

A test calls `drawn()` and compares, so that the pictures cannot say anything else than the code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.listener import state as listener
from engine.operator import state as operator
from engine.runtime.dispatch import Transitions
from engine.settings import Settings, variable

DOCS = Path(__file__).parent
PAGES = ("architecture.md", "settings.md")

TABLES: Mapping[str, Transitions[Any]] = {
    "revision": listener.TRANSITIONS,
    "deployment": listener.DEPLOYMENT_TRANSITIONS,
    "lgp": operator.TRANSITIONS,
}
"""Name of the block in the page → transition table."""


def diagram(table: Transitions[Any]) -> str:
    """Return a Mermaid state diagram of a transition table."""
    rows = list(table)
    first = rows[0][0]
    sources = {source for source, _, _ in rows}
    last = {target for _, _, target in rows if target not in sources}
    lines = ["stateDiagram-v2", f"    [*] --> {first.value}"]
    lines += [f"    {source.value} --> {target.value}: {event}" for source, event, target in rows]
    lines += [f"    {state.value} --> [*]" for state in sorted(last)]
    return "\n".join(lines)


def settings() -> str:
    """Return a table of every setting: its variable, its default, what it is."""
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        secret = "SecretStr" in str(field.annotation)
        text = str(default).lower() if isinstance(default, bool) else str(default)
        shown = "" if default in (None, "", ()) or secret else f"`{text}`"
        lines.append(f"| `{variable(name)}` | {shown} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def drawn(page: str) -> str:
    """Return the page with every block drawn anew."""
    blocks = {name: f"```mermaid\n{diagram(table)}\n```" for name, table in TABLES.items()}
    for name, inner in {**blocks, "settings": settings()}.items():
        block = f"<!-- drawn: {name} -->\n{inner}\n<!-- end -->"
        page = re.sub(rf"<!-- drawn: {name} -->.*?<!-- end -->", lambda _, b=block: b, page, flags=re.S)
    return page


if __name__ == "__main__":
    for name in PAGES:
        (DOCS / name).write_text(drawn((DOCS / name).read_text()))
