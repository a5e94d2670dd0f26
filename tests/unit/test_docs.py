"""The pictures and tables in the documentation are the code's."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import typer
import yaml

from cli.doctor.cluster import OLDEST
from cli.main import app

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


PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
"""Every page of the project, for people."""


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as hosts of repositories make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inside = [target.partition("#") for target in targets if not target.startswith("https://")]

    files = [(page.parent / path if path else page, anchor) for path, _, anchor in inside]
    assert [str(file) for file, _ in files if not file.exists()] == []
    assert [anchor for file, anchor in files if anchor and anchor not in anchors(file)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(
        r"`((?:engine|workers|beat|cli|k8s|sandbox|tests|bench|docs)/[\w./-]+)`", page.read_text(encoding="utf-8")
    )

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    commands = getattr(group, "commands", {})
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|-- |\$ |bin/|&& )agentplane ([a-z][a-z-]+)((?: --?[a-z][a-z-]*)*)", text)

    assert [command for command, _ in named if command not in commands] == []
    known = {name: {option for param in command.params for option in param.opts} for name, command in commands.items()}
    unknown = [
        (command, option) for command, given in named for option in given.split() if option not in known[command]
    ]
    assert unknown == []
