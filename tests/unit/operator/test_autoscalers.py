"""An autoscaler that does not work is reported after a grace period, with the fix; its constant changes are no events.

The same on API servers: tests/integration/test_autoscaler_health.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from engine.log.export import export_log
from engine.operator.config import OperatorConfig, SharedIngress
from engine.operator.observation.autoscalers import GRACE, observe_autoscaler
from engine.ports import Manifest, ObjectKey
from tests.support.operator import CONFIG, NAME, NAMESPACE, OperatorWorld, lgp_manifest, shared_ingress

BOUNDS = {"enabled": True, "minReplicas": 1, "maxReplicas": 8}
KEDA = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com"), keda_enabled=True)
NO_METRICS = "unable to get metrics for resource cpu: no metrics returned from resource metrics API"
GRACE_SECONDS = GRACE / timedelta(seconds=1)


def autoscaled(config: OperatorConfig = CONFIG, **server: Any) -> OperatorWorld:
    """A world with one LGP that is scaled, rolled out, and whose autoscalers have no status yet."""
    world = OperatorWorld(config=config)
    world.autoscales = False
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(serverSpec={"queueEnabled": False, **server}, autoscaling=BOUNDS))
    world.run(5)
    return world


def says(world: OperatorWorld, kind: str, name: str = NAME, **status: Any) -> None:
    """Let the autoscaler's controller write a status."""
    key = next(key for key in world.cluster.objects if (key.kind, key.name) == (kind, name))
    world.cluster.objects[key]["status"] = status


def conditions(**told: tuple[str, str, str]) -> list[dict[str, str]]:
    return [{"type": kind, "status": s, "reason": r, "message": m} for kind, (s, r, m) in told.items()]


def hpa_says(world: OperatorWorld, reason: str = "", message: str = "", **more: Any) -> None:
    active = ("False", reason, message) if reason else ("True", "ValidMetricFound", "")
    able = ("True", "ReadyForNewScale", "")
    says(world, "HorizontalPodAutoscaler", conditions=conditions(AbleToScale=able, ScalingActive=active), **more)


def observed(world: OperatorWorld) -> list[tuple[str, str]]:
    """Return the autoscaler's events, in their order."""
    stream = f"lgp/{NAMESPACE}/{NAME}"
    told: dict[str, Callable[[Manifest], str]] = {
        "AutoscalerObserved": lambda data: data["autoscaler"]["reason"],
        "AutoscalerUnhealthy": lambda d: d["reason"],
    }
    return [(r.type, told[r.type](r.data)) for r in world.events.read(stream) if r.type in told]


def test_an_autoscaler_without_metrics_yet_is_waited_for() -> None:
    world = autoscaled()
    hpa_says(world, "FailedGetResourceMetric", NO_METRICS)
    world.run(GRACE_SECONDS - 30)

    condition = world.condition("Autoscaling")
    assert (condition["status"], condition["reason"]) == ("Unknown", "Waiting")
    assert NO_METRICS in condition["message"]
    assert world.condition("Degraded")["status"] == "False"
    assert world.state().last_reason == "", "nobody is bothered"

    hpa_says(world)
    world.run(GRACE_SECONDS * 2)
    assert (world.condition("Autoscaling")["status"], world.condition("Autoscaling")["reason"]) == ("True", "Applied")
    assert observed(world) == [
        ("AutoscalerObserved", "NotLookedAt"),
        ("AutoscalerObserved", "FailedGetResourceMetric"),
        ("AutoscalerObserved", ""),
    ]


def test_an_autoscaler_without_metrics_is_reported_with_the_fix_and_so_is_its_recovery() -> None:
    world = autoscaled()
    hpa_says(world, "FailedGetResourceMetric", NO_METRICS)
    world.run(GRACE_SECONDS + 30)

    condition = world.condition("Autoscaling")
    assert (condition["status"], condition["reason"]) == ("False", "FailedGetResourceMetric")
    assert NO_METRICS in condition["message"]
    assert "metrics-server" in condition["message"]
    assert world.state().last_reason.startswith("FailedGetResourceMetric: HorizontalPodAutoscaler team/")
    assert world.condition("Degraded")["status"] == "False", "it is no degradation"
    assert world.condition("Available")["status"] == "True", "and fails no revision"

    hpa_says(world)
    world.run(5)
    assert world.condition("Autoscaling")["status"] == "True"
    assert observed(world)[-2:] == [("AutoscalerUnhealthy", "FailedGetResourceMetric"), ("AutoscalerObserved", "")]


def test_what_changes_every_fifteen_seconds_is_no_event() -> None:
    world = autoscaled()
    hpa_says(world)
    world.run(5)
    version = world.events.version(f"lgp/{NAMESPACE}/{NAME}")

    for seconds in range(20):
        hpa_says(
            world,
            currentReplicas=1 + seconds % 3,
            lastScaleTime=f"2026-01-01T00:00:{seconds:02}Z",
            currentMetrics=[{"type": "Resource", "resource": {"current": {"averageUtilization": seconds}}}],
        )
        world.run(2)
    assert world.events.version(f"lgp/{NAMESPACE}/{NAME}") == version


def test_the_same_problem_in_other_words_is_reported_once() -> None:
    world = autoscaled()
    for pod, tries in (("x7k2p", 3), ("b5nzq", 14), ("x7k2p", 15)):
        hpa_says(world, "FailedGetResourceMetric", f"missing request for cpu of Pod {NAME}-6d4f-{pod}, try {tries}")
        world.run(5)
    assert observed(world).count(("AutoscalerObserved", "FailedGetResourceMetric")) == 1

    hpa_says(world, "FailedGetResourceMetric", "the server could not find the requested resource")
    world.run(5)
    assert observed(world).count(("AutoscalerObserved", "FailedGetResourceMetric")) == 2, "another cause is news"


def test_a_short_failure_is_not_shown_within_the_grace_period() -> None:
    world = autoscaled()
    hpa_says(world)
    world.run(5)
    applied = world.types().count("LgpStatusApplied")

    hpa_says(world, "FailedGetResourceMetric", NO_METRICS)
    world.run(GRACE_SECONDS - 30)
    hpa_says(world)
    world.run(GRACE_SECONDS)
    assert world.types().count("LgpStatusApplied") == applied


def test_an_autoscaler_is_not_reported_during_a_rollout() -> None:
    """Before its pods run there are no metrics, and a trigger may read a table that the pods create."""
    world = OperatorWorld()
    world.autoscales = False
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(serverSpec={"queueEnabled": False}, autoscaling=BOUNDS))
    world.run(5, roll_out=False)
    hpa_says(world, "FailedGetResourceMetric", "did not receive metrics for targeted pods")
    world.run(GRACE_SECONDS * 3, roll_out=False)
    assert ("AutoscalerUnhealthy", "FailedGetResourceMetric") not in observed(world)

    world.run(GRACE_SECONDS - 30)
    assert world.condition("Autoscaling")["status"] == "Unknown"
    world.run(60)
    assert world.condition("Autoscaling")["status"] == "False"


def test_a_controller_that_does_not_run_is_named() -> None:
    for config, words in ((CONFIG, "kube-controller-manager"), (KEDA, "KEDA's operator does not run")):
        world = autoscaled(config)
        world.run(GRACE_SECONDS + 30)
        condition = world.condition("Autoscaling")
        assert (condition["status"], condition["reason"]) == ("False", "NotLookedAt")
        assert words in condition["message"]


def keda_made(world: OperatorWorld, reason: str, message: str) -> None:
    """Let KEDA make a HorizontalPodAutoscaler of the ScaledObject, with its labels."""
    scaled = world.cluster.objects[world.find("ScaledObject")]
    metadata = {"namespace": NAMESPACE, "name": f"keda-hpa-{NAME}", "labels": dict(scaled["metadata"]["labels"])}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    world.cluster.put(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata,
            "spec": {"scaleTargetRef": target},
        }
    )
    active = ("False", reason, message) if reason else ("True", "ValidMetricFound", "")
    says(world, "HorizontalPodAutoscaler", f"keda-hpa-{NAME}", conditions=conditions(ScalingActive=active))


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("cannot reach postgres://lg:hun/ter2@db: refused", "cannot reach postgres://***@db: refused"),
        ("host=db password='a b\\' c' user=lg", "host=db password=*** user=lg"),
        ("host=db password=hunter2 user=lg", "host=db password=*** user=lg"),
    ],
)
def test_a_password_in_a_message_is_hidden(message: str, kept: str) -> None:
    ready = {"type": "Ready", "status": "False", "reason": "TriggerError", "message": message}
    metadata = {"name": NAME, "namespace": NAMESPACE, "uid": "u"}

    seen = observe_autoscaler({"kind": "ScaledObject", "metadata": metadata, "status": {"conditions": [ready]}})

    assert seen.message == kept


def test_a_trigger_error_has_the_message_of_the_autoscaler_that_keda_made() -> None:
    world = autoscaled(KEDA)
    failed = ("False", "TriggerError", "Triggers defined in ScaledObject are not working correctly")
    says(world, "ScaledObject", conditions=conditions(Ready=failed), hpaName=f"keda-hpa-{NAME}")
    world.run(5)
    keda_made(world, "FailedGetExternalMetric", "failed to connect to postgres://lg:hunter2-hunter2@db: refused")
    world.run(GRACE_SECONDS + 30)

    condition = world.condition("Autoscaling")
    assert (condition["status"], condition["reason"]) == ("False", "TriggerError")
    assert f"keda-hpa-{NAME}, FailedGetExternalMetric: failed to connect to postgres://***@db" in condition["message"]
    assert "log of keda-operator" in condition["message"]
    assert "hunter2" not in b"".join(export_log(world.events)).decode()

    says(world, "ScaledObject", conditions=conditions(Ready=("True", "ScaledObjectReady", "")))
    keda_made(world, "", "")
    world.run(5)
    assert world.condition("Autoscaling")["status"] == "True"


def test_an_autoscaler_of_keda_without_metrics_is_reported_although_its_scaled_object_is_ready() -> None:
    world = autoscaled(KEDA)
    says(world, "ScaledObject", conditions=conditions(Ready=("True", "ScaledObjectReady", "")))
    world.run(5)
    keda_made(world, "FailedGetResourceMetric", NO_METRICS)
    world.run(GRACE_SECONDS + 30)

    condition = world.condition("Autoscaling")
    assert (condition["status"], condition["reason"]) == ("False", "FailedGetResourceMetric")
    assert f"HorizontalPodAutoscaler {NAMESPACE}/keda-hpa-{NAME}: {NO_METRICS}" in condition["message"]


def test_an_autoscaler_that_is_no_longer_planned_is_forgotten() -> None:
    world = autoscaled()
    hpa_says(world, "FailedGetResourceMetric", NO_METRICS)
    world.run(GRACE_SECONDS + 30)

    world.cluster.put(lgp_manifest(serverSpec={"queueEnabled": False}, autoscaling={"enabled": False}))
    world.run(10)
    assert world.state().autoscalers == {}
    status = world.cluster.objects[lgp_key_of(world)]["status"]
    assert "Autoscaling" not in {c["type"] for c in status["conditions"]}


def lgp_key_of(world: OperatorWorld) -> ObjectKey:
    return world.find("LGP")


def horizontal(status: Manifest, metrics: tuple[str, ...] = ("cpu", "memory")) -> Manifest:
    spec = {"metrics": [{"type": "Resource", "resource": {"name": name}} for name in metrics]}
    metadata = {"uid": "u", "name": NAME, "namespace": NAMESPACE}
    return {"kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec, "status": status}


def scaled(**told: tuple[str, str, str]) -> Manifest:
    metadata = {"uid": "u", "name": NAME, "namespace": NAMESPACE}
    return {"kind": "ScaledObject", "metadata": metadata, "spec": {}, "status": {"conditions": conditions(**told)}}


ABLE = {"AbleToScale": ("True", "SucceededGetScale", "")}
WORKS = conditions(**ABLE, ScalingActive=("True", "ValidMetricFound", ""))
ONE_OF_TWO = [{"type": "Resource", "resource": {"name": "cpu"}}, {"type": ""}]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (horizontal({}), "NotLookedAt"),
        (horizontal({"conditions": WORKS}), ""),
        (horizontal({"conditions": WORKS, "currentMetrics": ONE_OF_TWO}), "MetricsUnknown"),
        (horizontal({"conditions": conditions(AbleToScale=("False", "FailedGetScale", "x"))}), "FailedGetScale"),
        (
            horizontal({"conditions": conditions(**ABLE, ScalingActive=("False", "InvalidSelector", ""))}),
            "InvalidSelector",
        ),
        (horizontal({"conditions": conditions(**ABLE, ScalingActive=("False", "ScalingDisabled", ""))}), ""),
        (horizontal({"conditions": conditions(**ABLE, ScalingActive=("False", "not a reason", ""))}), "Unhealthy"),
        (scaled(), "NotLookedAt"),
        (scaled(Ready=("Unknown", "", "")), "NotLookedAt"),
        (scaled(Ready=("True", "ScaledObjectReady", ""), Fallback=("False", "NoFallbackFound", "")), ""),
        (scaled(Ready=("False", "ScaledObjectCheckFailed", "")), "ScaledObjectCheckFailed"),
        (scaled(Ready=("Unknown", "PartialTriggerError", "")), "PartialTriggerError"),
        (scaled(Ready=("True", "ScaledObjectReady", ""), Fallback=("True", "FallbackExists", "")), "FallbackExists"),
        (scaled(Ready=("True", "", ""), Paused=("True", "ScaledObjectPaused", "")), "ScaledObjectPaused"),
    ],
)
def test_the_reason_of_a_status(manifest: Manifest, reason: str) -> None:
    assert observe_autoscaler(manifest).reason == reason


def test_the_metrics_without_a_value_are_named() -> None:
    sight = observe_autoscaler(horizontal({"conditions": WORKS, "currentMetrics": ONE_OF_TWO}))
    assert sight.message.startswith("it gets no value of memory")
