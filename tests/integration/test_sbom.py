"""`make -f k8s/Makefile sbom`: the list holds every pin of the image's lock, with its hashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-production.lock"

Pins = dict[tuple[str, str], set[str]]
"""Name and version → SHA-256 of its files."""


def locked() -> Pins:
    pins: Pins = {}
    for requirement in re.split(r"\n(?=\S)", LOCK.read_text()):
        named = re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", requirement)
        assert named is not None, requirement
        pins[named[1], named[2]] = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", requirement))
    return pins


@pytest.mark.timeout(600)
def test_it_lists_every_pin_of_the_lock_with_its_hashes(tmp_path: Path) -> None:
    written = tmp_path / "image.cdx.json"
    command = ["make", "-f", "k8s/Makefile", "sbom", f"SBOM={written}", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    bom = json.loads(written.read_text())
    listed: Pins = {
        (component["name"], component["version"]): {
            digest["content"]
            for reference in component["externalReferences"]
            for digest in reference["hashes"]
            if digest["alg"] == "SHA-256"
        }
        for component in bom["components"]
    }

    assert (bom["bomFormat"], bom["metadata"]["component"]["name"]) == ("CycloneDX", "agentplane")
    assert listed == locked()
    assert len(listed) > 50
    assert all(listed.values())
    assert all(component["purl"].startswith("pkg:pypi/") for component in bom["components"])


def test_the_generator_is_pinned_with_hashes() -> None:
    requirements = re.split(r"\n(?=\S)", (ROOT / "requirements-sbom.lock").read_text())

    assert any(requirement.startswith("cyclonedx-bom==") for requirement in requirements)
    assert all("==" in requirement and "--hash=sha256:" in requirement for requirement in requirements)
