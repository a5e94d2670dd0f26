"""The pictures in the documentation are the code's tables."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_state_machines_are_drawn_from_their_tables() -> None:
    page = (DOCS / "architecture.md").read_text()
    drawn = runpy.run_path(str(DOCS / "draw.py"))["drawn"](page)

    assert "QUEUED --> AWAITING_DEPLOY: SecretsApplied" in drawn
    assert page == drawn, "run `python docs/draw.py`"
