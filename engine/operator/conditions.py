"""What the definition of LGPs lets a condition say."""

from __future__ import annotations

import re

LONGEST_MESSAGE = 8000
"""Characters of a condition's message that are kept; the definition lets 32768 in."""
LONGEST_REASON = 1024
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")


def reason(word: str, otherwise: str) -> str:
    """Return `word` where it may be the reason of a condition, else `otherwise`."""
    return word if len(word) <= LONGEST_REASON and _REASON.fullmatch(word) else otherwise
