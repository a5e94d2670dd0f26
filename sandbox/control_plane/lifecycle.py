"""Which status may follow which: the life cycles of revisions and deployments as tables.

A data plane reports from workers that may die and repeat themselves, so reports arrive twice and late. Repeating the
present status is harmless; skipping steps is allowed (two reports may have been folded into one); a step that is
not in the table would go backwards and is refused. A final status has no successor: trying again is a new revision.
UNKNOWN is a gap in knowledge, not a stage: entered from every status that is not final, left for any but the first two.
"""

from __future__ import annotations

from collections.abc import Mapping

STAGES = ("CREATING", "QUEUED", "AWAITING_BUILD", "BUILDING", "AWAITING_DEPLOY", "DEPLOYING")
FINAL = frozenset({"CREATE_FAILED", "BUILD_FAILED", "DEPLOY_FAILED", "DEPLOYED", "SKIPPED", "INTERRUPTED"})
FAILED = frozenset({"CREATE_FAILED", "BUILD_FAILED", "DEPLOY_FAILED"})
GIVEN_UP = frozenset({"SKIPPED", "INTERRUPTED"})

# A failure of a stage cannot be reported once a later stage was reached.
REVISION_NEXT: Mapping[str, frozenset[str]] = {
    **{
        stage: frozenset({*STAGES[place + 1 :], "UNKNOWN", *FINAL})
        - ({"CREATE_FAILED"} if place > STAGES.index("QUEUED") else frozenset())
        - ({"BUILD_FAILED"} if place > STAGES.index("BUILDING") else frozenset())
        for place, stage in enumerate(STAGES)
    },
    "UNKNOWN": frozenset({*STAGES[2:], *FINAL}),
    **{status: frozenset() for status in FINAL},
}

# AWAITING_DELETE is entered by DELETE alone, DELETED (the row goes) from there alone: a data plane cannot remove
# what nobody asked it to remove.
DEPLOYMENT_NEXT: Mapping[str, frozenset[str]] = {
    "AWAITING_DATABASE": frozenset({"READY", "UNUSED", "UNKNOWN"}),
    "READY": frozenset({"UNUSED", "UNKNOWN"}),
    "UNUSED": frozenset({"READY", "UNKNOWN"}),
    "UNKNOWN": frozenset({"READY", "UNUSED"}),
    "AWAITING_DELETE": frozenset({"DELETED"}),
}

REVISION_STATUSES = frozenset(REVISION_NEXT)
DEPLOYMENT_STATUSES = frozenset(DEPLOYMENT_NEXT) | {"DELETED"}


def may_follow(table: Mapping[str, frozenset[str]], present: str, reported: str) -> bool:
    """Whether a report of `reported` is acceptable while the status is `present`; repeating it always is."""
    return reported == present or reported in table[present]


def severity(status: str) -> str:
    """The log level under which a report of this status is shown."""
    if status in FAILED:
        return "ERROR"
    return "WARNING" if status in GIVEN_UP or status == "UNKNOWN" else "INFO"
