"""What one check of the doctor found: a line, and how to fix it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """Not checked, and that is not a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor."""

    level: Level
    subject: str
    """What was checked."""
    detail: str
    """What was found."""
    fix: str = ""
    """What to do; empty when there is nothing to do, or when `detail` says so already."""


def ok(subject: str, detail: str) -> Finding:
    return Finding(level=Level.OK, subject=subject, detail=detail)


def warn(subject: str, detail: str, fix: str) -> Finding:
    return Finding(level=Level.WARN, subject=subject, detail=detail, fix=fix)


def fail(subject: str, detail: str, fix: str = "") -> Finding:
    return Finding(level=Level.FAIL, subject=subject, detail=detail, fix=fix)


_FIX = re.compile(
    r"[.;]*; (?=(?:check|correct|set|start|install|rename|run|use|add|give|choose|remove|upgrade)\b)|: (?=check )"
)
"""Where the message of an engine error goes over from the problem to the fix."""


def failure(subject: str, message: str) -> Finding:
    """Return the failure that the message of an engine error describes: first the problem, then the fix, if any."""
    detail, *fix = _FIX.split(message, maxsplit=1)
    return fail(subject, detail, "".join(fix))


def skip(subject: str, detail: str) -> Finding:
    return Finding(level=Level.SKIP, subject=subject, detail=detail)
