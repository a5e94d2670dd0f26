"""Validation of the status of a Job: the API server refuses a status whose parts contradict each other.

A Job ends in two steps. SuccessCriteriaMet (or FailureTarget) means that the Job's end is decided, while pods may still
run. Complete (or Failed) means that the Job has ended; it requires the first condition. These conditions stay True.
The rules are those of Kubernetes 1.34 (pkg/apis/batch/validation, pkg/registry/batch/job). The format of
`completedIndexes` and `failedIndexes` and the entries of `uncountedTerminatedPods` are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sandbox.kubernetes.status import Cause, required, wrong

Object = dict[str, Any]

_COUNTS = ("active", "succeeded", "failed", "ready", "terminating")
_PERMANENT = ("Failed", "Complete", "FailureTarget", "SuccessCriteriaMet")


@dataclass(frozen=True)
class _Facts:
    """The parts of a Job's status that the rules check."""

    true: frozenset[str]
    """Types of the conditions that are True."""
    false: frozenset[str]
    """Types of the conditions that are False."""
    counts: dict[str, int]
    uncounted: int
    """How many terminated pods are not yet counted."""
    start: datetime | None
    completion: datetime | None
    completed_indexes: str
    failed_indexes: str | None

    @property
    def finished(self) -> bool:
        return not self.true.isdisjoint(("Complete", "Failed"))


def _facts(status: Object) -> _Facts:
    conditions = status.get("conditions") or ()
    uncounted = status.get("uncountedTerminatedPods") or {}
    return _Facts(
        true=frozenset(at.get("type", "") for at in conditions if at.get("status") == "True"),
        false=frozenset(at.get("type", "") for at in conditions if at.get("status") == "False"),
        counts={name: status.get(name) or 0 for name in _COUNTS},
        uncounted=sum(len(uncounted.get(name) or ()) for name in ("succeeded", "failed")),
        start=_time(status.get("startTime")),
        completion=_time(status.get("completionTime")),
        completed_indexes=status.get("completedIndexes") or "",
        failed_indexes=status.get("failedIndexes"),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def check_job_status(old: Object, new: Object) -> Iterator[Cause]:
    """Yield why the status of Job `new` may not follow that of Job `old`; both have the same, valid spec.

    A rule applies only if a part of the status changes that the rule is about. A status that was invalid before, or
    that a change of the spec made invalid, can therefore still be updated.
    """
    status, spec = new.get("status") or {}, new["spec"]
    before, after = _facts(old.get("status") or {}), _facts(status)
    for name, count in after.counts.items():
        if count < 0:
            yield wrong(f"status.{name}", count, "must be greater than or equal to 0")
    changed = {name for name, part in _PARTS.items() if part(before) != part(after)}
    ready = status.get("ready")  # None: nothing to compare with `active`
    if changed & {"ready", "active"} and ready is not None and ready > after.counts["active"]:
        yield wrong("status.ready", ready, "must not be more than `active`")
    yield from _ends(after, changed)
    yield from _finished(after, changed, spec)
    yield from _times(status, after, changed)
    yield from _indexes(status, after, changed, spec)
    yield from _history(status, before, after, spec)


_PARTS: dict[str, Callable[[_Facts], Any]] = {
    "Complete": lambda facts: "Complete" in facts.true,
    "Failed": lambda facts: "Failed" in facts.true,
    "SuccessCriteriaMet": lambda facts: "SuccessCriteriaMet" in facts.true,
    "FailureTarget": lambda facts: "FailureTarget" in facts.true,
    "finished": lambda facts: facts.finished,
    "active": lambda facts: facts.counts["active"],
    "ready": lambda facts: facts.counts["ready"],
    "terminating": lambda facts: facts.counts["terminating"],
    "uncounted": lambda facts: facts.uncounted,
    "startTime": lambda facts: facts.start,
    "completionTime": lambda facts: facts.completion,
    "completedIndexes": lambda facts: facts.completed_indexes,
    "failedIndexes": lambda facts: facts.failed_indexes,
}
"""The parts of a status that a rule may be about, by the name of a condition or field."""

_EXCLUDE_EACH_OTHER = (
    ("Complete", "Failed"),
    ("Complete", "FailureTarget"),
    ("SuccessCriteriaMet", "Failed"),
    ("SuccessCriteriaMet", "FailureTarget"),
)
_NEEDS = (("Complete", "SuccessCriteriaMet"), ("Failed", "FailureTarget"))


def _ends(after: _Facts, changed: set[str]) -> Iterator[Cause]:
    for one, other in _EXCLUDE_EACH_OTHER:
        if changed & {one, other} and after.true >= {one, other}:
            yield _conditions(f"{one} and {other} may not both be True")
    for end, decision in _NEEDS:
        if changed & {end, decision} and end in after.true and decision not in after.true:
            yield _conditions(f"{end} may be True only while {decision} is True")


def _finished(after: _Facts, changed: set[str], spec: Object) -> Iterator[Cause]:
    if not after.finished:
        return
    for name in ("active", "terminating"):
        if changed & {"finished", name} and after.counts[name] > 0:
            yield wrong(f"status.{name}", after.counts[name], "must be 0 when the job is finished")
    if changed & {"finished", "uncounted"} and after.uncounted:
        yield wrong("status.uncountedTerminatedPods", after.uncounted, "must be empty when the job is finished")
    never_started = spec.get("suspend") and spec.get("completions") == 0
    if changed & {"finished", "startTime"} and after.start is None and not never_started:
        yield required("status.startTime", "a finished job needs it")


def _times(status: Object, after: _Facts, changed: set[str]) -> Iterator[Cause]:
    complete, shown = "Complete" in after.true, status.get("completionTime")
    if changed & {"Complete", "completionTime"}:
        if after.completion and not complete:
            yield wrong("status.completionTime", shown, "may be set only while Complete is True")
        if complete and not after.completion:
            yield required("status.completionTime", "a complete job needs it")
    backwards = after.start is not None and after.completion is not None and after.completion < after.start
    if backwards and changed & {"startTime", "completionTime"}:
        yield wrong("status.completionTime", shown, "must not be before `startTime`")


def _indexes(status: Object, after: _Facts, changed: set[str], spec: Object) -> Iterator[Cause]:
    if "completedIndexes" in changed and after.completed_indexes and spec.get("completionMode") != "Indexed":
        yield wrong("status.completedIndexes", status["completedIndexes"], "only an indexed job has it")
    if "failedIndexes" in changed and after.failed_indexes is not None and spec.get("backoffLimitPerIndex") is None:
        yield wrong("status.failedIndexes", status["failedIndexes"], "only a job with `backoffLimitPerIndex` has it")


def _history(status: Object, before: _Facts, after: _Facts, spec: Object) -> Iterator[Cause]:
    for name in _PERMANENT:
        if name in before.true - after.true:
            yield _conditions(f"{name} stays True once it is")
    may_scale_down = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")
    for name in ("failed", *(() if may_scale_down else ("succeeded",))):
        if after.counts[name] < before.counts[name]:
            yield wrong(f"status.{name}", after.counts[name], "must not decrease")
    if before.completion and after.completion and before.completion != after.completion:
        yield wrong("status.completionTime", status["completionTime"], "field is immutable")
    resumes = "Suspended" in before.true and "Suspended" in after.false
    if before.start and before.start != after.start and not spec.get("suspend") and not resumes:
        yield required("status.startTime", "may change only while the job is suspended")


def _conditions(words: str) -> Cause:
    return ("FieldValueInvalid", f"Invalid value: {words}", "status.conditions")
