"""What a check of the doctor says: one line, and the mend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """Not looked at, and nothing is wrong with that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor."""

    level: Level
    subject: str
    detail: str
    mend: str = ""


def ok(subject: str, detail: str) -> Finding:
    return Finding(level=Level.OK, subject=subject, detail=detail)


def warn(subject: str, detail: str, mend: str) -> Finding:
    return Finding(level=Level.WARN, subject=subject, detail=detail, mend=mend)


def fail(subject: str, detail: str, mend: str = "") -> Finding:
    return Finding(level=Level.FAIL, subject=subject, detail=detail, mend=mend)


def skip(subject: str, detail: str) -> Finding:
    return Finding(level=Level.SKIP, subject=subject, detail=detail)
