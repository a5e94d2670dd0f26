"""The pictures and tables in the documentation are the code's."""

from __future__ import annotations

import runpy
from pathlib import Path

import yaml

from cli.cluster_checks import OLDEST

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_the_state_machines_are_drawn_from_their_tables() -> None:
    page = (DOCS / "architecture.md").read_text()
    drawn = runpy.run_path(str(DOCS / "draw.py"))["drawn"](page)

    assert "QUEUED --> AWAITING_DEPLOY: SecretsApplied" in drawn
    assert page == drawn, "run `python docs/draw.py`"


def test_every_setting_is_in_its_table() -> None:
    page = (DOCS / "settings.md").read_text()
    drawn = runpy.run_path(str(DOCS / "draw.py"))["drawn"](page)

    assert "| `AGENTPLANE_POLL_SECONDS` | `10.0` | seconds between two polls of the control plane |" in drawn
    assert page == drawn, "run `python docs/draw.py`"


def test_the_oldest_kubernetes_is_the_same_everywhere() -> None:
    oldest = ".".join(map(str, OLDEST))
    chart = yaml.safe_load((ROOT / "k8s" / "chart" / "Chart.yaml").read_text())

    assert chart["kubeVersion"] == f">={oldest}.0-0"
    for page in (ROOT / "README.md", DOCS / "install.md"):
        assert f"Kubernetes {oldest} or newer" in page.read_text(), page
