"""Every event has a summary: one line with what matters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from cli.summaries import FORMATTERS, LONGEST, REGISTRIES, SHORTENED, Context, Summaries, of, shorten_ids, table
from engine.dataplane import events as data_plane
from engine.event import Event, Record
from engine.kubernetes.fingerprint import Fingerprint
from engine.listener import events as listener
from engine.operator import events as operator
from engine.ports import ObjectKey, lgp_key
from engine.runtime.backoff import ActDeferred, ActRefused

ID = "97e32883-8b48-4b1c-8bc8-eb08c3462c00"
REVISION = "bdfd2eb5-590e-4624-837f-91478fa4d33a"
LGP = "hello-97e328838b484b1c8bc8eb08c3462c00"
IMAGE = f"registry.example/hello@sha256:50db240d{'0' * 56}"


def key(kind: str, suffix: str = "") -> ObjectKey:
    return ObjectKey(api_version="apps/v1", kind=kind, namespace="agents", name=f"{LGP}{suffix}")


def fingerprint(generation: int = 1) -> Fingerprint:
    return Fingerprint(uid="u", generation=generation, fields="f")


def applied(kind: str, suffix: str = "") -> operator.AppliedObject:
    return operator.AppliedObject(key=key(kind, suffix), digest="d", fingerprint=fingerprint())


def requested(revision: str, image: str, *secrets: str) -> listener.RevisionRequested:
    return listener.RevisionRequested(
        revision_id=revision,
        image=image,
        resource_spec={},
        secret_names=secrets,
        secrets_digest="s",
        content_digest="c",
    )


def adopted(**more: Any) -> listener.LgpAdopted:
    return listener.LgpAdopted(revision_id="r1", lgp=LGP, uid="u", **more)


def lgp_applied(revision: str, generation: int, *, created: bool = False, **more: bool) -> listener.LgpApplied:
    return listener.LgpApplied(
        revision_id=revision, manifest_digest="d", fingerprint=fingerprint(generation), created=created, **more
    )


def rollout(**more: Any) -> listener.RolloutObserved:
    return listener.RolloutObserved(**{"available": False, "progressing": False, "database_ready": True, **more})


def health(ok: bool, detail: str, attempt: int) -> listener.HealthChecked:
    return listener.HealthChecked(revision_id="r1", ok=ok, url="http://x/ok", detail=detail, attempt=attempt)


def observed(generation: int, revision: str, *, deleting: bool) -> operator.LgpObserved:
    return operator.LgpObserved(
        namespace="agents",
        name=LGP,
        uid="u",
        generation=generation,
        deleting=deleting,
        revision=revision,
        deployment_id="",
        spec={},
        digest="d",
    )


def objects_applied(*objects: operator.AppliedObject, created: tuple[ObjectKey, ...] = ()) -> operator.ObjectsApplied:
    return operator.ObjectsApplied(
        generation=1, config_digest="c", objects=objects, created=tuple(str(one) for one in created)
    )


def workload(**changes: Any) -> operator.WorkloadObserved:
    counts = {"desired": 2, "replicas": 2, "ready": 2, "updated": 2, "available": 2}
    generations = {"generation": 3, "observed_generation": 3}
    status = {"key": key("Deployment", "-queue"), "uid": "u", **counts, **generations, **changes}
    return operator.WorkloadObserved(workload=operator.WorkloadStatus(**status))


def autoscaler(kind: str, suffix: str = "", **more: str) -> operator.AutoscalerObserved:
    return operator.AutoscalerObserved(autoscaler=operator.AutoscalerStatus(key=key(kind, suffix), uid="u", **more))


def status(*conditions: tuple[str, str, str]) -> operator.LgpStatusApplied:
    listed = [{"type": kind, "status": value, "reason": reason, "message": "m"} for kind, value, reason in conditions]
    return operator.LgpStatusApplied(digest="d", status={"conditions": listed}, rolled_out=None)


FAILURE = operator.PodFailure(
    pod=f"{LGP}-x",
    container="api-server",
    reason="CrashLoopBackOff",
    message="it ended with exit code 3",
    log="Traceback\n  \x1b[31mboom\x1b[0m",
)

SUMMARIES: list[tuple[Event, str]] = [
    (
        listener.DeploymentRegistered(deployment_id=ID, name="hello", workspace_id="w", namespace="agents", lgp=LGP),
        "hello in namespace agents, LGP hello-97e32883…",
    ),
    (requested(REVISION, IMAGE, "A", "B"), "revision bdfd2eb5, registry.example/hello@sha256:50db240d…, 2 secrets"),
    (requested("r1", "i:1"), "revision r1, i:1"),
    (listener.RevisionSuperseded(revision_id=REVISION, by="r2"), "revision bdfd2eb5, by revision r2"),
    (listener.DeletionRequested(reason="AWAITING_DELETE"), "AWAITING_DELETE"),
    (
        listener.SecretsApplied(secret=f"{LGP}-env-c42c8cddf94d", revision_id="r1", digest="d"),
        "Secret hello-97e32883…-env-c42c8cddf94d for revision r1",
    ),
    (
        adopted(spec_digest="k", managers=("python",)),
        "LGP hello-97e32883…, written by python, stays as it is: it already has revision r1",
    ),
    (
        adopted(differences=("spec.serverSpec.image",)),
        "LGP hello-97e32883…, written by an unknown client, is rewritten, because of differences in "
        "spec.serverSpec.image",
    ),
    (lgp_applied("r1", 1, created=True), "LGP created for revision r1, generation 1"),
    (lgp_applied("r2", 2), "LGP updated for revision r2, generation 2"),
    (lgp_applied("r1", 3, restored=True), "LGP set back to revision r1, generation 3"),
    (lgp_applied(REVISION, 2, stopped=True), "LGP scaled to zero, because revision bdfd2eb5 failed"),
    (
        listener.LgpRejected(revision_id="r1", key=lgp_key("agents", "hello"), message="too long"),
        "LGP agents/hello: too long",
    ),
    (
        rollout(generation=1, progressing=True, database_ready=False, ready=0, replicas=2),
        "generation 1 progressing, 0/2 ready, database not ready",
    ),
    (
        rollout(
            generation=2,
            ready=1,
            replicas=2,
            reason="ImagePullBackOff",
            message="no such image\nof another workload too",
        ),
        "generation 2 not available, 1/2 ready, ImagePullBackOff: no such image",
    ),
    (health(True, '200 {"ok":true}', 1), '200 {"ok":true}'),
    (health(False, "no answer", 4), "attempt 4, http://x/ok: no answer"),
    (listener.RevisionDeployed(revision_id=REVISION), "revision bdfd2eb5 serves"),
    (
        listener.RevisionFailed(revision_id="r1", reason="RolloutTimeout", message="one\ntwo"),
        "revision r1: RolloutTimeout: one; two",
    ),
    (listener.SecretsPruned(kept="b", deleted=("a",)), "deleted a, kept b"),
    (listener.SecretsPruned(kept="b", deleted=()), "nothing to delete, kept b"),
    (
        listener.DriftDetected(key=lgp_key("agents", "hello"), change="fields were changed"),
        "LGP agents/hello fields were changed",
    ),
    (listener.LgpGone(), "the LGP no longer exists"),
    (listener.DeletionStarted(existed=True), "requested the deletion of the LGP"),
    (listener.DeletionStarted(existed=False), "there was no LGP"),
    (
        listener.DeletionPending(finalizers=("foregroundDeletion",)),
        "the LGP still exists, with finalizers foregroundDeletion",
    ),
    (listener.DeletionPending(finalizers=()), "the LGP still exists"),
    (listener.DeploymentDeleted(), "all that the listener made is deleted"),
    (listener.StatusReported(subject="revision", id=REVISION, status="DEPLOYED"), "revision bdfd2eb5 DEPLOYED"),
    (listener.StatusReported(subject="deployment", id=ID, status="READY"), "deployment READY"),
    (
        listener.StatusReportRejected(
            subject="revision", id="r1", status="DEPLOYED", reason="409: backwards", unsupported=False
        ),
        "revision r1 DEPLOYED: 409: backwards",
    ),
    (listener.EndpointPublished(url="https://agents.example.com/lgp/x"), "https://agents.example.com/lgp/x"),
    (listener.EndpointNotPublished(url="https://a/x", reason="405"), "https://a/x: 405"),
    (listener.Paused(by="ada"), "by ada"),
    (listener.Resumed(by="ada"), "by ada"),
    (
        ActDeferred(act="ApplyLgp", attempt=3, reason="no answer", retry_at=datetime(2026, 1, 1, 10, 0, 7, tzinfo=UTC)),
        "ApplyLgp, attempt 3, next at 10:00:07: no answer",
    ),
    (ActRefused(act="ApplyLgp", reason="forbidden"), "ApplyLgp: forbidden"),
    (observed(1, REVISION, deleting=False), "generation 1, revision bdfd2eb5"),
    (observed(2, "", deleting=True), "generation 2, being deleted"),
    (operator.LgpRemoved(), "the LGP does not exist"),
    (
        operator.ObjectsAdopted(
            adopted=operator.Adopted(
                objects={
                    f"Deployment agents/{LGP}": operator.AdoptedObject(
                        uid="u", differences=("containers[api-server].image",)
                    ),
                    f"Deployment agents/{LGP}-redis": operator.AdoptedObject(uid="u", template_digest="4e07408562be"),
                    f"Service agents/{LGP}": operator.AdoptedObject(uid="u"),
                },
                managers=("manager",),
                database=operator.AdoptedDatabase(
                    name="lg-1", service="lg-1", secret="postgres-credentials", user="u", database="d", image="i"
                ),
            )
        ),
        "written by manager; pods of Deployment redis stay as they are; pods are replaced of Deployment "
        "(containers[api-server].image); database lg-1 with the password in Secret postgres-credentials",
    ),
    (
        objects_applied(
            applied("Secret", "-db"),
            applied("Deployment"),
            applied("Deployment", "-queue"),
            created=(key("Secret", "-db"), key("Deployment")),
        ),
        "created Secret db, Deployment; applied Deployment queue",
    ),
    (objects_applied(applied("Service")), "applied Service"),
    (
        operator.ObjectRejected(key=key("Service"), digest="d", status=403, reason="Forbidden", message="quota"),
        "Service: quota",
    ),
    (operator.ObjectsPruned(objects=(f"Deployment agents/{LGP}-redis",)), "deleted Deployment redis"),
    (
        operator.ObjectsPruned(objects=("2 Secret", "1 Service"), everything=True),
        "nothing is left; deleted 2 Secret, 1 Service",
    ),
    (operator.ObjectsPruned(objects=(), everything=True), "nothing was left"),
    (
        operator.ObjectsPruned(
            objects=("Service edge/a", "IngressPath edge/b"), left_in_place=("Service edge/a", "IngressPath edge/b")
        ),
        "left Service a, IngressPath b in place: our role no longer allows deleting it",
    ),
    (
        operator.DriftDetected(key=key("Deployment"), change="deleted", detail="it is gone"),
        "Deployment was deleted: it is gone",
    ),
    (workload(), "Deployment queue 2/2 ready"),
    (workload(ready=1, updated=1, replicas=3), "Deployment queue 1/2 ready, 1 of 3 pods new"),
    (workload(observed_generation=2), "Deployment queue 2/2 ready, not yet observed by its controller"),
    (
        workload(ready=0, failure=FAILURE),
        "Deployment queue 0/2 ready, pod hello-97e32883…-x api-server CrashLoopBackOff: it ended with exit code 3: "
        "Traceback; [31mboom [0m",
    ),
    (workload(ready=0, unschedulable="0/3 nodes fit"), "Deployment queue 0/2 ready, 0/3 nodes fit"),
    (
        autoscaler("ScaledObject", "-queue", reason="TriggerError", message="no"),
        "ScaledObject queue does not work at the moment: TriggerError: no",
    ),
    (autoscaler("HorizontalPodAutoscaler"), "HorizontalPodAutoscaler works"),
    (
        operator.AutoscalerUnhealthy(
            key=key("HorizontalPodAutoscaler"), reason="FailedGetResourceMetric", message="no metrics"
        ),
        "HorizontalPodAutoscaler does not work: FailedGetResourceMetric: no metrics",
    ),
    (
        status(
            ("Available", "False", "RollingOut"),
            ("Progressing", "True", "RollingOut"),
            ("Degraded", "False", "AsExpected"),
            ("DatabaseReady", "True", "Ready"),
            ("Autoscaling", "False", "KindNotServed"),
        ),
        "Progressing (RollingOut), DatabaseReady (Ready), not Available (RollingOut), not Autoscaling (KindNotServed)",
    ),
    (
        data_plane.ConfigurationRecorded(component="listener", digest="abc", config={}),
        "Listener settings recorded, digest abc",
    ),
    (
        data_plane.ConfigurationSpread(component="operator", digest="abc"),
        "all LGPs are re-checked with the settings of digest abc",
    ),
    (data_plane.ListenerPublished(version="0.1.0"), "reported version 0.1.0 to the control plane"),
    (data_plane.ListenerRefused(reason="no listener"), "no listener"),
    (data_plane.NamespaceLeased(namespace="agents"), "this data plane holds namespace agents"),
    (
        data_plane.NamespaceRefused(namespace="agents", holder="b-dataplane/6d1f"),
        "namespace agents is held by data plane b-dataplane/6d1f: nothing is written there",
    ),
    (data_plane.NamespaceLeft(namespace="agents"), "namespace agents is no longer watched"),
    (data_plane.RemovalStarted(by="ana"), "by ana: polls stop, Agent Servers are deleted"),
    (data_plane.RemovalCancelled(by="ana"), "by ana: polls resume"),
    (data_plane.PollFailed(reason="503"), "503"),
    (data_plane.PollRecovered(), "the control plane answers again"),
    (
        data_plane.ResourceRejected(resource=f"deployment {ID}", field="name", problem="is missing"),
        "deployment 97e32883 is skipped: name: is missing",
    ),
    (data_plane.ResourceAccepted(resource=f"deployment {ID}"), "deployment 97e32883 is no longer skipped"),
    (
        data_plane.DeletionGuardTripped(deployments=(ID, "b"), live=3),
        "2 of 3 deployments would be deleted at once, so the deletions wait: 97e32883, b",
    ),
    (data_plane.DeletionGuardReleased(deployments=("a", "b"), by="ada"), "2 deletions may proceed, by ada"),
    (data_plane.DeletionGuardReleased(deployments=(), by="poll"), "the deletions are no longer too many at once"),
]

STREAMS = {"deployment/": f"deployment/{ID}", "lgp/": f"lgp/agents/{LGP}", "dataplane/": "dataplane/x"}


def stream_of(event: Event) -> str:
    return next(STREAMS[prefix] for prefix, registry in REGISTRIES.items() if type(event) in registry.classes)


def record(kind: str, data: dict[str, Any], stream: str = f"deployment/{ID}") -> Record:
    return Record(
        id="e",
        stream=stream,
        version=1,
        position=1,
        type=kind,
        schema_version=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        actor="test",
        cause=None,
        data=data,
    )


def recorded(event: Event) -> Record:
    return record(event.type, orjson.loads(event.model_dump_json()), stream_of(event))


def summary(record: Record) -> str:
    return Summaries().summary(record)


@pytest.mark.parametrize(("event", "text"), SUMMARIES, ids=lambda case: getattr(case, "type", ""))
def test_an_event_says_what_matters(event: Event, text: str) -> None:
    assert summary(recorded(event)) == text


def test_every_class_of_events_has_a_formatter_and_an_example() -> None:
    classes = {event for registry in REGISTRIES.values() for event in registry.classes}

    assert FORMATTERS.keys() == classes
    assert {type(event) for event, _ in SUMMARIES} == classes


def test_a_class_of_events_has_one_formatter() -> None:
    def reason(event: data_plane.PollFailed, context: Context) -> str:
        return event.reason

    with pytest.raises(TypeError, match="PollFailed has two formatters"):
        table(of(data_plane.PollFailed, reason), of(data_plane.PollFailed, reason))


def test_a_changed_configuration_names_the_settings_that_changed() -> None:
    def configured(component: str = "listener", **config: Any) -> Record:
        return recorded(data_plane.ConfigurationRecorded(component=component, digest="d", config=config))

    summaries = Summaries()
    texts = [
        summaries.summary(each)
        for each in (
            configured(rollout_deadline=900.0, namespaces=["a"], templates={"deployment": ""}),
            configured("operator", rollout_deadline=1.0),
            configured(rollout_deadline=600.0, namespaces=["a"], templates={"deployment": ""}),
            configured(rollout_deadline=600.0, namespaces=["a"], templates={"deployment": "x" * 100}),
            configured(rollout_deadline=600.0, namespaces=["a"], templates={"deployment": "x" * 100}),
        )
    ]

    assert texts[0] == "Listener settings recorded, digest d"
    assert texts[1] == "Operator settings recorded, digest d"
    assert texts[2] == "Listener settings changed (rollout_deadline 900 → 600); all deployments are re-checked"
    assert texts[3].startswith("Listener settings changed (templates.deployment none → xxx")
    assert texts[4] == "Listener settings recorded again; all deployments are re-checked"


def test_a_changed_program_is_told_from_changed_settings() -> None:
    summaries = Summaries()
    texts = [
        summaries.summary(
            recorded(data_plane.ConfigurationRecorded(component="operator", digest="d", config={}, program=program))
        )
        for program in ("p1", "p2")
    ]

    assert texts[1] == "Operator program changed, settings did not; all LGPs are re-checked"


def test_a_configuration_with_many_changes_names_the_first_ones() -> None:
    def configured(value: int) -> Record:
        config = dict.fromkeys("abcdef", value)
        return recorded(data_plane.ConfigurationRecorded(component="listener", digest="d", config=config))

    summaries = Summaries()
    summaries.summary(configured(1))

    changed = summaries.summary(configured(2))

    assert "(a 1 → 2, b 1 → 2, c 1 → 2, d 1 → 2, 2 more)" in changed


def test_an_event_of_a_newer_program_is_summarized_field_by_field() -> None:
    text = summary(record("NobodyKnows", {"what": "x", "many": [1, 2], "more": {"a": 1}, "empty": "", "no": None}))

    assert text == "what=x many=[2] more={1}"


def test_a_known_event_of_another_shape_is_summarized_field_by_field() -> None:
    assert summary(record("LgpApplied", {"revision": "r1"})) == "revision=r1"


def test_no_text_of_an_event_controls_the_terminal() -> None:
    text = summary(recorded(data_plane.PollFailed(reason="\x1b]0;owned\x07 a\rb\n\u202ec")))

    assert text.isprintable()


def test_a_long_summary_is_cut() -> None:
    text = summary(recorded(data_plane.PollFailed(reason="x" * 10_000)))

    assert len(text) == LONGEST
    assert text.endswith("…")


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
def test_ids_are_cut_to_their_first_eight_digits(text: str, short: str) -> None:
    assert shorten_ids(text) == short


def test_a_long_crash_keeps_its_reason_and_its_last_log_line() -> None:
    log = "\n".join(f"line {number}: {'x' * 60}" for number in range(40))
    message = f"Deployment hello: it ended with exit code 1\nlast log lines:\n{log}\nValueError: no weights"

    text = summary(recorded(listener.RevisionFailed(revision_id="r1", reason="CrashLoopBackOff", message=message)))

    assert len(text) <= LONGEST
    assert text.startswith(
        f"revision r1: CrashLoopBackOff: Deployment hello: it ended with exit code 1; last log lines: {SHORTENED} line"
    )
    assert text.endswith("; ValueError: no weights")
