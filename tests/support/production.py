"""Code that limits a Python process to the modules that the image installs."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import packages_distributions

from tests.chart.rendering import ROOT

LOCK = ROOT / "requirements-production.lock"

ONLY_PRODUCTION = """
import sys
blocked = {blocked!r}
class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{{name}} is not in the image", name=name)
sys.meta_path.insert(0, Blocker)
"""


@cache
def blocked() -> frozenset[str]:
    """Return the modules that are installed on this machine and are not in the image."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    held = {"agentplane", *(line.partition("==")[0] for line in lines if "==" in line)}
    outside = (
        module
        for module, owners in packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner.lower()) in held for owner in owners)
    )
    return frozenset({"sandbox", "tests", "bench", *outside})
