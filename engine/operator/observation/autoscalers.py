"""Whether an autoscaler works, as its own status says, and what a person can do when it does not. Pure.

A HorizontalPodAutoscaler says in its conditions whether it gets metrics (ScalingActive) and whether it may scale
(AbleToScale); its status names no value for a metric that it does not get. A ScaledObject says whether its triggers
work (Ready). KEDA makes a HorizontalPodAutoscaler of each ScaledObject, and the conditions of that one say why the
triggers fail.

These statuses change every fifteen seconds. What matters is whether the autoscaler works, and why not: two messages
that differ in the names of pods and in numbers only count as the same message.

A new autoscaler has no metrics for a minute or two, nor has one whose pods do not run yet. So the operator reports an
autoscaler only when it has not worked for GRACE, counted from when it stopped working and from the end of the rollout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from engine.operator import conditions
from engine.ports import JsonObject, Manifest, ObjectKey

GRACE = timedelta(minutes=3)
"""How long an autoscaler may not work, with everything rolled out, before that is reported as a problem."""
MESSAGE_CHARACTERS = 1000
"""Characters of a message that are kept."""

HORIZONTAL = "HorizontalPodAutoscaler"
HORIZONTAL_API_VERSION = "autoscaling/v2"
SCALED_OBJECT = "ScaledObject"

NOT_LOOKED_AT = "NotLookedAt"
"""Reason: no controller has written a status yet, so no controller has seen the autoscaler."""
METRICS_UNKNOWN = "MetricsUnknown"
"""Reason: the autoscaler gets some of its metrics, and not the others."""
SCALING_DISABLED = "ScalingDisabled"
"""Reason that Kubernetes gives when the Deployment has no replicas: nothing is wrong."""

_CREDENTIALS = re.compile(r"(://)\S{1,1000}(?=@)|(\bpassword=)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedAutoscaler:
    """What the status of an autoscaler says."""

    uid: str
    target: str
    """Name of the Deployment that it scales."""
    reason: str = ""
    """Why it does not work; empty when it does."""
    message: str = ""
    horizontal: str = ""
    """Of a ScaledObject: name of the HorizontalPodAutoscaler that KEDA makes of it."""


def observe_autoscaler(manifest: Manifest) -> ObservedAutoscaler:
    """Return what the status of a HorizontalPodAutoscaler or ScaledObject says."""
    spec, status, metadata = manifest.get("spec") or {}, manifest.get("status") or {}, manifest["metadata"]
    by_type = {condition.get("type"): condition for condition in status.get("conditions") or []}
    scaled = manifest["kind"] == SCALED_OBJECT
    problems = _scaled_object_problems(by_type) if scaled else _horizontal_problems(by_type, spec, status)
    reason, message = next(problems, ("", ""))
    return ObservedAutoscaler(
        uid=metadata["uid"],
        target=(spec.get("scaleTargetRef") or {}).get("name", ""),
        reason=conditions.reason(reason, "Unhealthy") if reason else "",
        message=_CREDENTIALS.sub(r"\1\2***", message)[:MESSAGE_CHARACTERS],
        horizontal=(status.get("hpaName") or f"keda-hpa-{metadata['name']}") if scaled else "",
    )


def _horizontal_problems(
    conditions: Mapping[str, JsonObject], spec: JsonObject, status: JsonObject
) -> Iterator[tuple[str, str]]:
    if not conditions:
        yield NOT_LOOKED_AT, "it has no status yet"
    for kind in ("AbleToScale", "ScalingActive"):
        condition = conditions.get(kind) or {}
        if condition.get("status") == "False" and condition.get("reason") != SCALING_DISABLED:
            yield str(condition.get("reason") or kind), str(condition.get("message", ""))
    if (conditions.get("ScalingActive") or {}).get("status") == "True":
        missing = list(_without_value(spec.get("metrics") or [], status.get("currentMetrics") or []))
        if missing:
            yield METRICS_UNKNOWN, f"it gets no value of {', '.join(missing)}, and takes no pods away until it does"


def _without_value(asked: list[JsonObject], current: list[JsonObject]) -> Iterator[str]:
    """Yield the names of the metrics without a value: the status has an entry without a type in their place."""
    for metric, found in zip(asked, current, strict=False):
        if not found.get("type"):
            kind = str(metric.get("type", ""))
            part: JsonObject = metric.get(kind[:1].lower() + kind[1:]) or {}
            yield str(part.get("name") or (part.get("metric") or {}).get("name") or kind)


def _scaled_object_problems(conditions: Mapping[str, JsonObject]) -> Iterator[tuple[str, str]]:
    paused, fallback, ready = (conditions.get(kind) or {} for kind in ("Paused", "Fallback", "Ready"))
    if paused.get("status") == "True":
        yield "ScaledObjectPaused", str(paused.get("message", ""))
    if ready.get("status") == "False" or (ready.get("status") == "Unknown" and ready.get("reason")):
        yield str(ready.get("reason") or "NotReady"), str(ready.get("message", ""))
    if fallback.get("status") == "True":
        yield str(fallback.get("reason") or "Fallback"), str(fallback.get("message", ""))
    if ready.get("status") not in ("True", "False"):
        yield NOT_LOOKED_AT, "it has no status yet"


def merged_problem(key: ObjectKey, own: ObservedAutoscaler, horizontal: ObservedAutoscaler | None) -> tuple[str, str]:
    """Return reason and message of an autoscaler, empty when it works.

    `horizontal` is the HorizontalPodAutoscaler that KEDA made of a ScaledObject, None for any other autoscaler.
    """
    if horizontal is None or not horizontal.reason or horizontal.reason == NOT_LOOKED_AT:
        return own.reason, own.message
    made = f"{HORIZONTAL} {key.namespace}/{own.horizontal}"
    if not own.reason:
        return horizontal.reason, f"{made}: {horizontal.message}"
    return own.reason, f"{own.message}; {made}, {horizontal.reason}: {horizontal.message}"


def same_problem(one: tuple[str, str], other: tuple[str, str], target: str) -> bool:
    """Whether two pairs of reason and message mean the same problem of an autoscaler of the Deployment `target`."""
    if _is_of_metrics(one[0]) and other[0] == METRICS_UNKNOWN:
        return True  # an autoscaler that gets only some of its metrics alternates between two reasons
    return one[0] == other[0] and _gist(one[1], target) == _gist(other[1], target)


def _is_of_metrics(reason: str) -> bool:
    return reason == METRICS_UNKNOWN or (reason.startswith("FailedGet") and reason.endswith("Metric"))


def _gist(message: str, target: str) -> str:
    """Return a message without the names of pods of the Deployment `target`, and without numbers."""
    without_pods = re.sub(rf"{re.escape(target)}-[a-z0-9-]+", target, message) if target else message
    return re.sub(r"\d+", "", without_pods)


_METRICS = (
    "check that metrics-server runs (then `kubectl top pods` answers), and that every container of the pods requests "
    "cpu and memory, in the template or in the LGP"
)
_TRIGGERS = (
    "KEDA cannot read what it scales by: see the log of keda-operator. For queue workers, KEDA counts rows of the "
    "table `run` in the deployment's Postgres, so it must reach that Postgres as the queue workers do, past any "
    "NetworkPolicy"
)
_FIXES = {
    "FailedGetResourceMetric": _METRICS,
    "FailedGetContainerResourceMetric": _METRICS,
    METRICS_UNKNOWN: _METRICS,
    "FailedGetExternalMetric": _TRIGGERS,
    "TriggerError": _TRIGGERS,
    "PartialTriggerError": _TRIGGERS,
    "Fallback": _TRIGGERS,
    "FallbackExists": _TRIGGERS,
    "ScaledObjectPaused": "it is paused: remove its annotations autoscaling.keda.sh/paused…",
}
"""Reason → fix."""
_FIX_WITHOUT_STATUS = {
    HORIZONTAL: "the controller of HorizontalPodAutoscalers, a part of kube-controller-manager, does not run",
    SCALED_OBJECT: "KEDA's operator does not run, or does not watch this namespace; start it, or let the operator make "
    "HorizontalPodAutoscalers: operator.kedaEnabled: false (AGENTPLANE_KEDA_ENABLED)",
}
"""Kind → fix when the kind's controller writes no status."""


def describe_problem(key: ObjectKey, reason: str, message: str) -> str:
    """Return a message, for a person, about an autoscaler that does not work: reason, message and fix."""
    fix = _FIX_WITHOUT_STATUS.get(key.kind) if reason == NOT_LOOKED_AT else _FIXES.get(reason)
    problem = f"{key} does not work ({reason}): {message or 'it does not say why'}"
    return f"{problem}; {fix}" if fix else problem
