"""The life cycles of revisions and deployments: tables of which status may follow which.

The workers of a data plane may die and send a report again, so reports arrive twice and late. A report of the current
status is accepted and changes nothing. A report may skip stages, because a data plane may combine two reports. A step
that is not in the table would go backwards and is refused. A final status has no successor: another attempt is a new
revision. UNKNOWN means that the status is not known. It may follow every status that is not final, and every status
except the first two stages may follow it.
"""

from __future__ import annotations

from collections.abc import Mapping

STAGES = ("CREATING", "QUEUED", "AWAITING_BUILD", "BUILDING", "AWAITING_DEPLOY", "DEPLOYING")
FINAL = frozenset({"CREATE_FAILED", "BUILD_FAILED", "DEPLOY_FAILED", "DEPLOYED", "SKIPPED", "INTERRUPTED"})
FAILED = frozenset({"CREATE_FAILED", "BUILD_FAILED", "DEPLOY_FAILED"})
ABANDONED = frozenset({"SKIPPED", "INTERRUPTED"})

# The failure of a stage is refused once a later stage was reported.
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

# Only the DELETE request sets AWAITING_DELETE, and DELETED (which deletes the row) may follow only AWAITING_DELETE: a
# data plane cannot delete a deployment unless a user asked for the deletion.
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
    """Whether the status `reported` may follow the status `present`; the same status always may."""
    return reported == present or reported in table[present]


def severity(status: str) -> str:
    """Return the log level of a report with this status."""
    if status in FAILED:
        return "ERROR"
    return "WARNING" if status in ABANDONED or status == "UNKNOWN" else "INFO"
