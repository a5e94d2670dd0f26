"""Limits that the CustomResourceDefinition of LGPs sets for the texts of a condition."""

from __future__ import annotations

import re

LONGEST_MESSAGE = 8000
"""Characters of a condition's message that the operator keeps; the definition allows 32768."""
LONGEST_REASON = 1024
"""Characters that the definition allows in the reason of a condition."""
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")


def reason(word: str, otherwise: str) -> str:
    """Return `word` if the definition allows it as the reason of a condition, else `otherwise`."""
    return word if len(word) <= LONGEST_REASON and _REASON.fullmatch(word) else otherwise
