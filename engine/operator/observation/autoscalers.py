"""Whether an autoscaler can do its work, as it says itself, and what to do where it cannot. Pure.

A HorizontalPodAutoscaler tells in its conditions whether it gets metrics (ScalingActive) and whether it may scale
(AbleToScale); its status names no value for a metric that it does not get. A ScaledObject tells whether its triggers
work (Ready), and KEDA makes a HorizontalPodAutoscaler of it, whose conditions tell why they do not.

All of it changes every fifteen seconds. What matters is whether it works, and why not: a message that differs in the
names of pods and in numbers only is the same message.

An autoscaler that was just made has no metrics for a minute or two, nor has one whose pods are not there yet. So it is
waited for: GRACE from when it stopped working, and from the end of the rollout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from engine.operator import conditions
from engine.operator.scaling import FEWEST
from engine.ports import Manifest, ObjectKey

GRACE = timedelta(minutes=3)
"""How long an autoscaler may not work, with everything rolled out, before that is told as a problem."""
MESSAGE_CHARACTERS = 1000

HORIZONTAL = "HorizontalPodAutoscaler"
HORIZONTAL_API_VERSION = "autoscaling/v2"
SCALED_OBJECT = "ScaledObject"

NOT_LOOKED_AT = "NotLookedAt"
"""Reason: no controller has written a status yet."""
METRICS_UNKNOWN = "MetricsUnknown"
"""Reason: the autoscaler works by some of its metrics, and does not get the others."""
SCALING_DISABLED = "ScalingDisabled"
"""Reason of a HorizontalPodAutoscaler whose Deployment has no replicas: nothing is wrong."""

_CREDENTIALS = re.compile(r"(://)\S{1,1000}(?=@)|(\bpassword=)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedAutoscaler:
    """What an autoscaler says of itself."""

    uid: str
    target: str
    """Name of the Deployment that it scales."""
    reason: str = ""
    """Why it does not work; empty when it does."""
    message: str = ""
    horizontal: str = ""
    """Of a ScaledObject: name of the HorizontalPodAutoscaler that KEDA makes of it."""


def is_watched(kind: str) -> bool:
    """Whether objects of this kind are autoscalers, of which a sight is kept."""
    return kind in FEWEST


def observe_autoscaler(manifest: Manifest) -> ObservedAutoscaler:
    """Return what a HorizontalPodAutoscaler or ScaledObject says of itself."""
    spec, status, metadata = manifest.get("spec") or {}, manifest.get("status") or {}, manifest["metadata"]
    said = {c.get("type"): c for c in status.get("conditions") or []}
    scaled = manifest["kind"] == SCALED_OBJECT
    problems = _scaled_object_problems(said) if scaled else _horizontal_problems(said, spec, status)
    reason, message = next(problems, ("", ""))
    return ObservedAutoscaler(
        uid=metadata["uid"],
        target=(spec.get("scaleTargetRef") or {}).get("name", ""),
        reason=conditions.reason(reason, "Unhealthy") if reason else "",
        message=_CREDENTIALS.sub(r"\1\2***", message)[:MESSAGE_CHARACTERS],
        horizontal=(status.get("hpaName") or f"keda-hpa-{metadata['name']}") if scaled else "",
    )


def _horizontal_problems(
    conditions: Mapping[str, Manifest], spec: Manifest, status: Manifest
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


def _without_value(asked: list[Manifest], current: list[Manifest]) -> Iterator[str]:
    """Yield the metrics without a value: in their place in the status there is one without a type."""
    for wanted, found in zip(asked, current, strict=False):
        if not found.get("type"):
            kind = str(wanted.get("type", ""))
            part: dict[str, Any] = wanted.get(kind[:1].lower() + kind[1:]) or {}
            yield str(part.get("name") or (part.get("metric") or {}).get("name") or kind)


def _scaled_object_problems(conditions: Mapping[str, Manifest]) -> Iterator[tuple[str, str]]:
    paused, fallback, ready = (conditions.get(kind) or {} for kind in ("Paused", "Fallback", "Ready"))
    if paused.get("status") == "True":
        yield "ScaledObjectPaused", str(paused.get("message", ""))
    if ready.get("status") == "False" or (ready.get("status") == "Unknown" and ready.get("reason")):
        yield str(ready.get("reason") or "NotReady"), str(ready.get("message", ""))
    if fallback.get("status") == "True":
        yield str(fallback.get("reason") or "Fallback"), str(fallback.get("message", ""))
    if ready.get("status") not in ("True", "False"):
        yield NOT_LOOKED_AT, "it has no status yet"


def told_by_both(key: ObjectKey, own: ObservedAutoscaler, horizontal: ObservedAutoscaler | None) -> tuple[str, str]:
    """Return reason and message of an autoscaler; `horizontal` is what KEDA made of a ScaledObject, if it did."""
    if horizontal is None or not horizontal.reason or horizontal.reason == NOT_LOOKED_AT:
        return own.reason, own.message
    made = f"{HORIZONTAL} {key.namespace}/{own.horizontal}"
    if not own.reason:
        return horizontal.reason, f"{made}: {horizontal.message}"
    return own.reason, f"{own.message}; {made}, {horizontal.reason}: {horizontal.message}"


def same_problem(one: tuple[str, str], other: tuple[str, str], target: str) -> bool:
    """Whether two reasons with their messages say the same of an autoscaler of the Deployment `target`."""
    if _is_of_metrics(one[0]) and other[0] == METRICS_UNKNOWN:
        return True  # with some of its metrics, it goes back and forth between two words
    return one[0] == other[0] and _gist(one[1], target) == _gist(other[1], target)


def _is_of_metrics(reason: str) -> bool:
    return reason == METRICS_UNKNOWN or (reason.startswith("FailedGet") and reason.endswith("Metric"))


def _gist(message: str, target: str) -> str:
    """Return a message without the names of pods and without numbers."""
    without_pods = re.sub(rf"{re.escape(target)}-[a-z0-9-]+", target, message) if target else message
    return re.sub(r"\d+", "", without_pods)


_METRICS = (
    "see whether metrics-server runs (`kubectl top pods` answers where it does), and whether every container of the "
    "pods requests cpu and memory, by the template or by the LGP"
)
_TRIGGERS = (
    "KEDA cannot read what it scales by: see the log of keda-operator. For queue workers it counts rows of the table "
    "`run` in the deployment's Postgres, which it must reach, past any NetworkPolicy, as the queue workers do"
)
_ADVICE = {
    "FailedGetResourceMetric": _METRICS,
    "FailedGetContainerResourceMetric": _METRICS,
    METRICS_UNKNOWN: _METRICS,
    "FailedGetExternalMetric": _TRIGGERS,
    "TriggerError": _TRIGGERS,
    "PartialTriggerError": _TRIGGERS,
    "Fallback": _TRIGGERS,
    "FallbackExists": _TRIGGERS,
    "ScaledObjectPaused": "somebody paused it: take its annotations autoscaling.keda.sh/paused… away",
}
"""Reason → what to do."""
_NOBODY_LOOKS = {
    HORIZONTAL: "the controller of HorizontalPodAutoscalers, a part of kube-controller-manager, does not run",
    SCALED_OBJECT: "KEDA's operator does not run, or does not watch this namespace; start it, or have "
    "HorizontalPodAutoscalers made: operator.kedaEnabled: false (AGENTPLANE_KEDA_ENABLED)",
}
"""Kind → what to do where its controller leaves it without a status."""


def told(key: ObjectKey, reason: str, message: str) -> str:
    """Return what to say of an autoscaler that does not work."""
    advice = _NOBODY_LOOKS.get(key.kind) if reason == NOT_LOOKED_AT else _ADVICE.get(reason)
    words = f"{key} does not work ({reason}): {message or 'it does not say why'}"
    return f"{words}; {advice}" if advice else words
