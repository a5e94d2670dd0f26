"""What an LGP's status says, whoever wrote it, and however."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from engine.kubernetes.fingerprint import Fingerprint, difference
from engine.listener.observation.compare import rollout

COUNTS = {"replicas": 2, "readyReplicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


def lgp(status: dict[str, Any], generation: int = 3, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "hello", "generation": generation, **metadata}, "status": status}


def said(status: dict[str, Any], **more: Any) -> Any:
    found = rollout(lgp(status, **more))
    assert found is not None
    return found


def writes(spec: str, status: str) -> list[dict[str, Any]]:
    return [
        {"manager": "agentplane-listener", "time": spec, "fieldsV1": {"f:spec": {}}},
        {"manager": "somebody", "time": status, "fieldsV1": {"f:status": {}}},
    ]


def test_no_status_says_nothing() -> None:
    assert rollout(lgp({})) is None


@pytest.mark.parametrize(
    ("counts", "available"),
    [
        (COUNTS, True),
        ({**COUNTS, "updatedReplicas": 1}, False),
        ({**COUNTS, "replicas": 3}, False),
        ({**COUNTS, "availableReplicas": 1}, False),
        ({}, False),
    ],
)
def test_counts_alone_are_available_when_all_replicas_are_new_and_there(
    counts: dict[str, int], available: bool
) -> None:
    found = said({"deploymentStatus": counts, "observedGeneration": 3})

    assert (found.available, found.database_ready) == (available, available)


@pytest.mark.parametrize(
    ("status", "metadata", "generation"),
    [
        ({"observedGeneration": 2}, {}, 2),
        ({"conditions": [{"type": "Available", "status": "True", "observedGeneration": 1}]}, {}, 1),
        ({"deploymentStatus": COUNTS}, {}, 3),
        ({"deploymentStatus": COUNTS}, {"managedFields": writes("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z")}, 3),
        ({"deploymentStatus": COUNTS}, {"managedFields": writes("2026-01-01T00:00:02Z", "2026-01-01T00:00:01Z")}, 2),
    ],
    ids=["said", "said by a condition", "not said", "written after our spec", "written before our spec"],
)
def test_the_generation_that_a_status_speaks_of(
    status: dict[str, Any], metadata: dict[str, Any], generation: int
) -> None:
    assert said(status, **metadata).generation == generation


@pytest.mark.parametrize(
    ("time", "since"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("the other day", None),
        (None, None),
    ],
)
def test_a_time_that_cannot_be_read_is_none(time: str | None, since: datetime | None) -> None:
    degraded = {"type": "Degraded", "status": "True", "reason": "Bad", "message": "so", "lastTransitionTime": time}

    found = said({"conditions": [degraded]})

    assert (found.failing_since, found.reason, found.message) == (since, "Bad", "so")


@pytest.mark.parametrize(
    ("live", "told"),
    [
        (Fingerprint(uid="u", generation=2, fields="f"), None),
        (Fingerprint(uid="u", generation=1, fields="older"), None),
        (Fingerprint(uid="u", generation=2, fields="other"), "taken over"),
        (Fingerprint(uid="u", generation=3, fields="f"), "2 → 3"),
        (Fingerprint(uid="v", generation=1, fields="f"), "created it again"),
    ],
    ids=["the same", "a stale read", "fields", "spec", "another object"],
)
def test_drift_is_told_from_a_stale_read(live: Fingerprint, told: str | None) -> None:
    found = difference(Fingerprint(uid="u", generation=2, fields="f"), live)

    assert (found is None) if told is None else (found is not None and told in found)


@pytest.mark.parametrize(
    ("condition", "warning"),
    [
        ({"status": "False", "reason": "KindNotServed", "message": "install KEDA"}, "KindNotServed: install KEDA"),
        ({"status": "False", "reason": "Pending", "message": "not all made yet"}, ""),
        ({"status": "True", "reason": "Applied", "message": "decide on the replicas"}, ""),
    ],
)
def test_an_autoscaler_that_cannot_be_made_is_a_warning_and_no_failure(condition: dict[str, Any], warning: str) -> None:
    available = {"type": "Available", "status": "True"}
    found = said({"observedGeneration": 3, "conditions": [available, {"type": "Autoscaling", **condition}]})

    assert (found.available, found.failing_since, found.warning) == (True, None, warning)
