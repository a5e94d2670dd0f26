"""Every event says in a line what matters about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cli.summaries import FORMATTERS, LONGEST, shorten_ids, summary
from engine.dataplane.events import DATA_PLANE_EVENTS
from engine.event import Record
from engine.listener.events import DEPLOYMENT_EVENTS
from engine.operator.events import LGP_EVENTS

ID = "97e32883-8b48-4b1c-8bc8-eb08c3462c00"
REVISION = "bdfd2eb5-590e-4624-837f-91478fa4d33a"
LGP = "hello-97e328838b484b1c8bc8eb08c3462c00"
IMAGE = f"registry.example/hello@sha256:50db240d{'0' * 56}"


def key(kind: str, suffix: str = "") -> dict[str, str]:
    return {"api_version": "apps/v1", "kind": kind, "namespace": "agents", "name": f"{LGP}{suffix}"}


def applied(kind: str, suffix: str = "") -> dict[str, Any]:
    return {"key": key(kind, suffix), "digest": "d", "fingerprint": {}}


def workload(**changes: Any) -> dict[str, Any]:
    counts = {"desired": 2, "replicas": 2, "ready": 2, "updated": 2, "available": 2}
    generations = {"generation": 3, "observed_generation": 3}
    return {"workload": {"key": key("Deployment", "-queue"), **counts, **generations, "failure": None, **changes}}


def condition(kind: str, status: str, reason: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": "m"}


FAILURE = {
    "pod": f"{LGP}-x",
    "container": "api-server",
    "reason": "CrashLoopBackOff",
    "message": "it ended with exit code 3",
    "log": "Traceback\n  \x1b[31mboom\x1b[0m",
}

SUMMARIES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "DeploymentRegistered": [
        ({"name": "hello", "namespace": "agents", "lgp": LGP}, "hello in agents, LGP hello-97e32883…"),
    ],
    "RevisionRequested": [
        (
            {"revision_id": REVISION, "image": IMAGE, "secret_names": ["A", "B"]},
            "revision bdfd2eb5, registry.example/hello@sha256:50db240d…, 2 secrets",
        ),
        ({"revision_id": "r1", "image": "i:1", "secret_names": []}, "revision r1, i:1"),
    ],
    "RevisionSuperseded": [({"revision_id": REVISION, "by": "r2"}, "revision bdfd2eb5 by r2")],
    "DeletionRequested": [({"reason": "AWAITING_DELETE"}, "AWAITING_DELETE")],
    "SecretsApplied": [
        (
            {"secret": f"{LGP}-env-c42c8cddf94d", "revision_id": "r1"},
            "Secret hello-97e32883…-env-c42c8cddf94d for revision r1",
        )
    ],
    "LgpAdopted": [
        (
            {"lgp": LGP, "managers": ["python"], "spec_digest": "k", "revision_id": "r1", "differences": []},
            "LGP hello-97e32883… is there, written by python, and asks for revision r1: it stays as it is",
        ),
        (
            {
                "lgp": LGP,
                "managers": [],
                "spec_digest": "",
                "revision_id": "r1",
                "differences": ["spec.serverSpec.image"],
            },
            "LGP hello-97e32883… is there, written by somebody else; it is written anew, for it differs in "
            "spec.serverSpec.image",
        ),
    ],
    "LgpApplied": [
        (
            {"revision_id": "r1", "created": True, "fingerprint": {"generation": 1}},
            "LGP created for revision r1, generation 1",
        ),
        (
            {"revision_id": "r2", "created": False, "fingerprint": {"generation": 2}},
            "LGP updated for revision r2, generation 2",
        ),
        (
            {"revision_id": "r1", "created": False, "fingerprint": {"generation": 3}, "restored": True},
            "LGP put back to revision r1, generation 3",
        ),
        (
            {"revision_id": REVISION, "created": False, "fingerprint": {"generation": 2}, "stopped": True},
            "LGP scaled to nothing, for revision bdfd2eb5 failed",
        ),
    ],
    "LgpRejected": [({"object": "LGP agents/hello", "message": "too long"}, "LGP agents/hello: too long")],
    "RolloutObserved": [
        (
            {
                "generation": 1,
                "available": False,
                "progressing": True,
                "database_ready": False,
                "ready": 0,
                "replicas": 2,
            },
            "generation 1 progressing, 0/2 ready, database not ready",
        ),
        (
            {
                "generation": 2,
                "available": False,
                "progressing": False,
                "database_ready": True,
                "ready": 1,
                "replicas": 2,
                "reason": "ImagePullBackOff",
                "message": "no such image\nof another workload too",
            },
            "generation 2 not available, 1/2 ready, ImagePullBackOff: no such image",
        ),
    ],
    "HealthChecked": [
        ({"ok": True, "detail": '200 {"ok":true}', "url": "http://x/ok", "attempt": 1}, '200 {"ok":true}'),
        (
            {"ok": False, "detail": "no answer", "url": "http://x/ok", "attempt": 4},
            "attempt 4, http://x/ok: no answer",
        ),
    ],
    "RevisionDeployed": [({"revision_id": REVISION}, "revision bdfd2eb5 serves")],
    "RevisionFailed": [
        (
            {"revision_id": "r1", "reason": "RolloutTimeout", "message": "one\ntwo"},
            "revision r1: RolloutTimeout: one; two",
        )
    ],
    "SecretsPruned": [
        ({"kept": "b", "deleted": ["a"]}, "deleted a, kept b"),
        ({"kept": "b", "deleted": []}, "none to delete, kept b"),
    ],
    "DriftDetected": [
        ({"object": "LGP agents/hello", "change": "fields were changed"}, "LGP agents/hello fields were changed"),
        (
            {"key": key("Deployment"), "change": "deleted", "detail": "it is gone"},
            "Deployment deleted: it is gone",
        ),
    ],
    "LgpGone": [({}, "the LGP does not exist any more")],
    "DeletionStarted": [
        ({"existed": True}, "the LGP was asked to go"),
        ({"existed": False}, "there was no LGP"),
    ],
    "DeletionPending": [
        ({"finalizers": ["foregroundDeletion"]}, "the LGP still exists, with finalizers foregroundDeletion"),
        ({"finalizers": []}, "the LGP still exists"),
    ],
    "DeploymentDeleted": [({}, "nothing of it is left")],
    "StatusReported": [
        ({"subject": "revision", "id": REVISION, "status": "DEPLOYED"}, "revision bdfd2eb5 DEPLOYED"),
        ({"subject": "deployment", "id": ID, "status": "READY"}, "deployment READY"),
    ],
    "StatusReportRejected": [
        (
            {"subject": "revision", "id": "r1", "status": "DEPLOYED", "reason": "409: backwards", "unsupported": False},
            "revision r1 DEPLOYED: 409: backwards",
        )
    ],
    "EndpointPublished": [({"url": "https://agents.example.com/lgp/x"}, "https://agents.example.com/lgp/x")],
    "EndpointNotPublished": [({"url": "https://a/x", "reason": "405"}, "https://a/x: 405")],
    "Paused": [({"by": "ada"}, "by ada")],
    "Resumed": [({"by": "ada"}, "by ada")],
    "ActDeferred": [
        (
            {"act": "ApplyLgp", "attempt": 3, "reason": "no answer", "retry_at": "2026-01-01T10:00:07Z"},
            "ApplyLgp, attempt 3, again at 10:00:07: no answer",
        )
    ],
    "ActRefused": [({"act": "ApplyLgp", "reason": "forbidden"}, "ApplyLgp: forbidden")],
    "LgpObserved": [
        ({"generation": 1, "revision": REVISION, "deleting": False}, "generation 1, revision bdfd2eb5"),
        ({"generation": 2, "revision": "", "deleting": True}, "generation 2, being deleted"),
    ],
    "LgpRemoved": [({}, "the LGP does not exist")],
    "ObjectsApplied": [
        (
            {
                "objects": [applied("Secret", "-db"), applied("Deployment"), applied("Deployment", "-queue")],
                "created": [f"Secret agents/{LGP}-db", f"Deployment agents/{LGP}"],
            },
            "created Secret db, Deployment; applied Deployment queue",
        ),
        ({"objects": [applied("Service")], "created": []}, "applied Service"),
    ],
    "ObjectRejected": [({"key": key("Service"), "message": "quota"}, "Service: quota")],
    "ObjectsPruned": [
        ({"objects": [f"Deployment agents/{LGP}-redis"], "everything": False}, "deleted Deployment redis"),
        ({"objects": ["2 Secret", "1 Service"], "everything": True}, "nothing is left; deleted 2 Secret, 1 Service"),
        ({"objects": [], "everything": True}, "nothing was left"),
        (
            {"objects": ["Service edge/a", "IngressPath edge/b"], "left": ["Service edge/a", "IngressPath edge/b"]},
            "left Service a, IngressPath b, which we may not touch any more",
        ),
    ],
    "WorkloadObserved": [
        (workload(), "Deployment queue 2/2 ready"),
        (workload(ready=1, updated=1, replicas=3), "Deployment queue 1/2 ready, 1 of 3 pods new"),
        (workload(observed_generation=2), "Deployment queue 2/2 ready, not yet seen by its controller"),
        (
            workload(ready=0, failure=FAILURE),
            "Deployment queue 0/2 ready, pod hello-97e32883…-x api-server CrashLoopBackOff: it ended with exit code 3: "
            "Traceback; [31mboom [0m",
        ),
        (workload(ready=0, unschedulable="0/3 nodes fit"), "Deployment queue 0/2 ready, 0/3 nodes fit"),
    ],
    "ObjectsAdopted": [
        (
            {
                "adopted": {
                    "objects": {
                        f"Deployment agents/{LGP}": {"template": "", "differences": ["containers[api-server].image"]},
                        f"Deployment agents/{LGP}-redis": {"template": "4e07408562be", "differences": []},
                        f"Service agents/{LGP}": {"template": "", "differences": []},
                    },
                    "managers": ["manager"],
                    "database": {"name": "lg-1", "secret": "postgres-credentials"},
                }
            },
            "made by manager; pods of Deployment redis stay as they are; pods are replaced of Deployment "
            "(containers[api-server].image); database lg-1 with the password in Secret postgres-credentials",
        )
    ],
    "AutoscalerObserved": [
        (
            {
                "autoscaler": {
                    "key": key("ScaledObject", "-queue"),
                    "uid": "u",
                    "reason": "TriggerError",
                    "message": "no",
                }
            },
            "ScaledObject queue does not work at the moment: TriggerError: no",
        ),
        (
            {"autoscaler": {"key": key("HorizontalPodAutoscaler"), "uid": "u", "reason": "", "message": ""}},
            "HorizontalPodAutoscaler works",
        ),
    ],
    "AutoscalerUnhealthy": [
        (
            {"key": key("HorizontalPodAutoscaler"), "reason": "FailedGetResourceMetric", "message": "no metrics"},
            "HorizontalPodAutoscaler does not work: FailedGetResourceMetric: no metrics",
        )
    ],
    "LgpStatusApplied": [
        (
            {
                "status": {
                    "conditions": [
                        condition("Available", "False", "RollingOut"),
                        condition("Progressing", "True", "RollingOut"),
                        condition("Degraded", "False", "AsExpected"),
                        condition("DatabaseReady", "True", "Ready"),
                        condition("Autoscaling", "False", "KindNotServed"),
                    ]
                }
            },
            "Progressing (RollingOut), DatabaseReady (Ready), not Available (RollingOut), "
            "not Autoscaling (KindNotServed)",
        )
    ],
    "ConfigurationRecorded": [({"component": "listener", "digest": "abc", "config": {}}, "listener, digest abc")],
    "ConfigurationSpread": [
        ({"component": "operator", "digest": "abc"}, "every stream of the operator is decided anew with abc")
    ],
    "ListenerPublished": [({"version": "0.1.0"}, "version 0.1.0")],
    "ListenerRefused": [({"reason": "no listener"}, "no listener")],
    "NamespaceLeased": [({"namespace": "agents"}, "agents is ours")],
    "NamespaceRefused": [
        (
            {"namespace": "agents", "holder": "b-dataplane/6d1f"},
            "agents is held by data plane b-dataplane/6d1f: nothing is written there",
        )
    ],
    "NamespaceLeft": [({"namespace": "agents"}, "agents is watched no longer")],
    "RemovalStarted": [({"by": "ana"}, "by ana: polls stop, Agent Servers go")],
    "RemovalCancelled": [({"by": "ana"}, "by ana: polls go on")],
    "PollFailed": [({"reason": "503"}, "503")],
    "PollRecovered": [({}, "the control plane answers again")],
    "ResourceRejected": [
        (
            {"resource": f"deployment {ID}", "field": "name", "problem": "is missing"},
            "deployment 97e32883 skipped: name: is missing",
        )
    ],
    "DeletionGuardTripped": [
        ({"deployments": [ID, "b"], "live": 3}, "2 of 3 deployments would go at once: 97e32883, b"),
    ],
    "ResourceAccepted": [({"resource": f"deployment {ID}"}, "deployment 97e32883 is skipped no longer")],
    "DeletionGuardReleased": [
        ({"deployments": ["a", "b"], "by": "ada"}, "2 deletions may go on, by ada"),
        ({"deployments": [], "by": "poll"}, "fewer would go at once by now"),
    ],
}


def record(kind: str, data: dict[str, Any]) -> Record:
    return Record(
        id="e",
        stream=f"lgp/agents/{LGP}" if kind in LGP_TYPES and "object" not in data else f"deployment/{ID}",
        version=1,
        position=1,
        type=kind,
        schema_version=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        actor="test",
        cause=None,
        data=data,
    )


LGP_TYPES = frozenset(LGP_EVENTS._classes)
ALL_TYPES = LGP_TYPES | DEPLOYMENT_EVENTS._classes.keys() | DATA_PLANE_EVENTS._classes.keys()


@pytest.mark.parametrize(
    ("kind", "data", "told"), [(kind, data, told) for kind, cases in SUMMARIES.items() for data, told in cases]
)
def test_what_is_told(kind: str, data: dict[str, Any], told: str) -> None:
    assert summary(record(kind, data)) == told


def test_every_type_of_event_has_its_own_telling_and_an_example() -> None:
    assert FORMATTERS.keys() >= ALL_TYPES
    assert SUMMARIES.keys() >= ALL_TYPES


def test_an_event_of_a_newer_program_is_told_field_by_field() -> None:
    told = summary(record("NobodyKnows", {"what": "x", "many": [1, 2], "more": {"a": 1}, "empty": "", "no": None}))

    assert told == "what=x many=[2] more={1}"


def test_a_known_event_of_another_shape_is_told_field_by_field() -> None:
    assert summary(record("LgpApplied", {"revision": "r1"})) == "revision=r1"


def test_nothing_that_an_event_holds_does_something_to_the_terminal() -> None:
    told = summary(record("PollFailed", {"reason": "\x1b]0;owned\x07 a\rb\n\u202ec"}))

    assert told.isprintable()


def test_a_long_story_is_cut() -> None:
    told = summary(record("PollFailed", {"reason": "x" * 10_000}))

    assert len(told) == LONGEST
    assert told.endswith("…")


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (ID, "97e32883"),
        (LGP, "hello-97e32883…"),
        (f"{LGP}-db", "hello-97e32883…-db"),
        (IMAGE, "registry.example/hello@sha256:50db240d…"),
        ("79a6cb28ab00416d is a digest", "79a6cb28ab00416d is a digest"),
        ("nothing to cut", "nothing to cut"),
    ],
)
def test_ids_are_told_by_their_first_eight_digits(text: str, short: str) -> None:
    assert shorten_ids(text) == short
