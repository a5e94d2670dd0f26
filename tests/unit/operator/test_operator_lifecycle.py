"""An LGP from its first rollout to its deletion, as the operator and the watcher see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from engine.errors import ObjectRefused
from engine.operator.state import TRANSITIONS, Life
from engine.ports import Manifest, ObjectKey, lgp_key
from engine.runtime.machine import Done, Wait
from tests.support.operator import NAME, NAMESPACE, STREAM, OperatorWorld, lgp_manifest, shared_ingress, started

LGP = lgp_key(NAMESPACE, NAME)


def test_a_first_rollout_creates_every_object_and_reports_it_in_the_status() -> None:
    world = started()

    assert {(key.kind, key.name.removeprefix(NAME)) for key in world.cluster.objects if key.kind != "LGP"} == {
        ("Deployment", ""),
        ("Deployment", "-queue"),
        ("Deployment", "-redis"),
        ("StatefulSet", "-db"),
        ("Service", ""),
        ("Service", "-db"),
        ("Service", "-redis"),
        ("Secret", "-db"),
        ("Ingress", "shared"),
    }
    status = world.cluster.objects[LGP]["status"]
    assert status["observedGeneration"] == 1
    assert status["endpoint"] == f"https://agents.example.com/lgp/{NAME}"
    assert status["deploymentStatus"]["updateRevision"] == "r1"
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Available": "True",
        "Progressing": "False",
        "Degraded": "False",
        "DatabaseReady": "True",
    }
    assert world.state().life is Life.PRESENT


def test_a_first_rollout_reads_and_writes_each_object_once() -> None:
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.watch()
    world.advance()

    touched = [name for verb, name in world.cluster.calls if verb in ("apply", "create", "patch")]
    assert len(touched) == len(set(touched)) == 9
    reads = [call for call in world.cluster.calls if call[0] in ("get", "list")]
    # Each apply reads its own object. The other reads: the LGP, the Secret with the password, the shared Ingress, and,
    # for adoption, the Agent Server's Deployment (which spares its apply a read) and Postgres under upstream's name.
    assert len(reads) == 5


def test_a_resync_without_a_change_writes_nothing_and_appends_nothing() -> None:
    world = started()
    before, version = len(world.cluster.calls), world.events.version(STREAM)

    world.loop.compare_everything(world.clock.at.timestamp())
    world.events.mark_dirty(STREAM)
    world.run(30)

    assert world.cluster.calls[before:] == []
    assert world.events.version(STREAM) == version
    assert isinstance(world.machine.decide(world.state(), world.clock.at), Done)


def test_a_new_revision_writes_only_what_it_changes() -> None:
    world = started()
    before = len(world.cluster.calls)

    world.cluster.put(lgp_manifest("r2"))
    world.run()

    changed = {
        name.rpartition("/")[2].removeprefix(NAME) for verb, name in world.cluster.calls[before:] if verb == "apply"
    }
    assert changed == {"", "-queue"}
    status = world.cluster.objects[LGP]["status"]
    assert (status["observedGeneration"], status["deploymentStatus"]["updateRevision"]) == (2, "r2")


def test_the_log_holds_no_literal_secret_of_the_lgp_and_the_cluster_does() -> None:
    world = started()

    assert "hunter2" not in "".join(str(record.data) for record in world.events.read(STREAM))
    deployment = world.cluster.objects[world.find("Deployment")]
    env = {e["name"]: e.get("value") for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["TOKEN"] == "hunter2-hunter2"


def test_the_password_of_the_database_is_generated_once() -> None:
    world = started()
    secret = world.find("Secret", "-db")
    password = world.cluster.objects[secret]["stringData"]

    world.cluster.put(lgp_manifest("r2", labels={"team": "blue"}))
    world.run()

    assert world.cluster.objects[secret]["stringData"] == password


def test_an_existing_password_is_adopted() -> None:
    world = OperatorWorld()
    key = ObjectKey(api_version="v1", kind="Secret", namespace=NAMESPACE, name=f"{NAME}-db")
    world.cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": key.name, "namespace": NAMESPACE},
            "data": {"x": "eQ=="},
        }
    )
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run()

    assert "stringData" not in world.cluster.objects[key]
    assert ("create", str(key)) not in world.cluster.calls


def test_objects_that_are_no_longer_asked_for_are_deleted_but_never_a_database() -> None:
    world = started()

    off: Manifest = {"redis": {"enabled": False}, "database": {"enabled": False}, "ingress": {"enabled": False}}
    world.cluster.put(lgp_manifest("r2", serverSpec={"queueEnabled": False}, **off))
    world.run()

    left = {(key.kind, key.name.removeprefix(NAME)) for key in world.cluster.objects}
    assert ("Deployment", "-redis") not in left
    assert ("Deployment", "-queue") not in left
    assert ("Service", "-redis") not in left
    assert {("StatefulSet", "-db"), ("Service", "-db"), ("Secret", "-db")} <= left
    ingress = world.cluster.objects[world.find("Ingress", name="shared")]
    assert ingress["spec"]["rules"] == [{"host": "agents.example.com"}]


def test_a_deleted_lgp_leaves_nothing() -> None:
    world = started()
    claim = {"name": f"postgres-data-{NAME}-db-0", "namespace": NAMESPACE}
    world.cluster.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "spec": {}})

    world.cluster.delete(LGP)
    world.run()

    assert [(key.kind, key.name) for key in world.cluster.objects] == [("Ingress", "shared")]
    assert world.cluster.objects[world.find("Ingress", name="shared")]["spec"]["rules"] == [
        {"host": "agents.example.com"}
    ]
    assert world.state().life is Life.PRUNED
    assert world.types()[-2:] == ["LgpRemoved", "ObjectsPruned"]


def test_the_removal_of_an_lgp_is_noticed_although_no_watch_saw_it() -> None:
    world = started()
    later = OperatorWorld(clock=world.clock, cluster=world.cluster)
    later.events = later.loop._events = world.events

    world.cluster.delete(LGP)
    later.run()

    assert later.state().life is Life.PRUNED


def test_nothing_is_applied_while_the_lgp_is_being_deleted() -> None:
    world = started()
    manifest = lgp_manifest("r2")
    manifest["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}
    world.cluster.put(manifest)
    world.run(1)
    before = len(world.cluster.calls)

    world.cluster.delete(world.find("Deployment"))
    world.run()

    assert world.state().life is Life.DELETING
    assert "DriftDetected" not in world.types()
    assert world.cluster.writes[-1][0] == "delete"
    assert [call for call in world.cluster.calls[before:] if call[0] in ("apply", "create", "patch")] == []


def test_an_lgp_created_again_under_its_name_owns_the_objects_of_the_first() -> None:
    world = started()
    world.cluster.delete(LGP)
    world.cluster.put(lgp_manifest("r9"))
    world.run()

    uid = world.cluster.objects[LGP]["metadata"]["uid"]
    deployment = world.cluster.objects[world.find("Deployment")]
    assert [owner["uid"] for owner in deployment["metadata"]["ownerReferences"]] == [uid]
    assert world.condition("Available")["status"] == "True"


def test_an_invalid_lgp_is_reported_and_its_objects_stay() -> None:
    world = started()
    world.cluster.put(lgp_manifest("r2", redis={"enabled": "perhaps"}))
    world.run()

    degraded = world.condition("Degraded")
    assert degraded["reason"] == "InvalidSpec"
    assert "spec.redis.enabled" in degraded["message"]
    assert world.find("Deployment", "-redis")
    assert world.cluster.objects[LGP]["status"]["observedGeneration"] == 2


# --- objects that the API server rejects


Rejects: TypeAlias = Callable[[ObjectKey], ObjectRefused | None]


def refuse(kind: str, status: int, message: str = "it does not fit", reason: str = "Invalid") -> Rejects:
    def rejects(key: ObjectKey) -> ObjectRefused | None:
        return ObjectRefused(message, reason=reason, status=status) if key.kind == kind else None

    return rejects


def test_a_rejected_object_is_a_condition_and_the_others_are_applied() -> None:
    world = OperatorWorld()
    world.cluster.rejects = refuse("StatefulSet", 422, "StatefulSet: storage must not shrink")
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run()

    assert "storage must not shrink" in world.condition("Degraded")["message"]
    assert world.condition("Degraded")["reason"] == "ObjectRejected"
    assert world.find("Deployment")
    assert world.types().count("ObjectRejected") == 1


def test_a_rejected_object_is_tried_again_when_the_lgp_changes_it() -> None:
    world = OperatorWorld()
    world.cluster.rejects = refuse("StatefulSet", 422)
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run()

    world.cluster.rejects = lambda key: None
    world.cluster.put(lgp_manifest(labels={"fixed": "yes"}))
    world.run()

    assert world.find("StatefulSet", "-db")
    assert world.condition("Degraded")["status"] == "False"


def test_an_object_over_its_quota_is_tried_again_ever_more_rarely() -> None:
    world = OperatorWorld()
    world.cluster.rejects = refuse("Deployment", 403, "exceeded quota", "Forbidden")
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run(20)
    assert isinstance(world.machine.decide(world.state(), world.clock.at), Wait)
    world.run(100)
    tries = world.types().count("ObjectRejected")
    assert 3 * 2 <= tries <= 3 * 4

    world.cluster.rejects = lambda key: None
    world.run(200)

    assert world.condition("Available")["status"] == "True"


def test_a_message_that_quotes_a_literal_secret_is_scrubbed() -> None:
    world = OperatorWorld()
    world.cluster.rejects = refuse("Deployment", 422, 'env[1].value: Invalid value: "hunter2-hunter2"')
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run()

    assert "hunter2" not in "".join(str(record.data) for record in world.events.read(STREAM))
    assert 'Invalid value: "***"' in world.condition("Degraded")["message"]


def test_a_missing_shared_ingress_is_reported_and_used_once_it_exists() -> None:
    world = OperatorWorld()
    world.cluster.put(lgp_manifest())
    world.run()
    assert "lgp-operator.io/shared-ingress" in world.condition("Degraded")["message"]
    assert world.condition("Available")["status"] == "True"

    world.cluster.put(shared_ingress())
    world.run(5)

    assert world.condition("Degraded")["status"] == "False"
    rules = world.cluster.objects[world.find("Ingress", name="shared")]["spec"]["rules"]
    assert [path["path"] for path in rules[0]["http"]["paths"]] == [f"/lgp/{NAME}"]


def test_an_act_is_deferred_while_the_api_server_does_not_answer() -> None:
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.watch()
    world.cluster.down = True
    for _ in range(3):
        world.events.take_due(world.clock.at)
        world.advance()
        world.clock.move(10)
    assert world.types()[:4] == ["LgpObserved", "ActDeferred", "ActDeferred", "ActDeferred"]

    world.cluster.down = False
    world.run()

    assert world.condition("Available")["status"] == "True"


def test_a_missing_permission_is_reported_and_tried_again() -> None:
    world = started()
    refusal = ObjectRefused("delete Service: forbidden", reason="Forbidden", status=403)
    allowed = world.cluster.delete

    def forbidden(key: ObjectKey, *, propagation: str = "Background", uid: str | None = None) -> bool:
        raise refusal

    world.cluster.delete = forbidden  # type: ignore[method-assign]
    world.cluster.put(lgp_manifest("r2", redis={"enabled": False}))
    world.run()
    assert "forbidden" in world.condition("Degraded")["message"]

    world.cluster.delete = allowed  # type: ignore[method-assign]
    world.run(120)

    assert not [key for key in world.cluster.objects if key.name.endswith("-redis")]
    assert world.condition("Degraded")["status"] == "False"


# --- drift


@pytest.mark.parametrize(
    ("kind", "suffix"), [("Deployment", ""), ("StatefulSet", "-db"), ("Service", ""), ("Secret", "-db")]
)
def test_a_deleted_object_is_created_again(kind: str, suffix: str) -> None:
    world = started()
    key = world.find(kind, suffix)
    uid = world.cluster.objects[key]["metadata"]["uid"]

    world.cluster.delete(key)
    world.run(5)

    assert world.cluster.objects[key]["metadata"]["uid"] != uid
    drift = [record.data for record in world.events.read(STREAM) if record.type == "DriftDetected"]
    assert [(d["key"]["kind"], d["change"]) for d in drift] == [(kind, "deleted")]


def test_an_edited_object_is_repaired() -> None:
    world = started()
    key = world.find("Service")

    world.cluster.edit(key)
    world.run(5)

    assert "edited" not in world.cluster.objects[key]["spec"]
    assert world.types().count("DriftDetected") == 1


def test_our_own_writes_are_no_drift_even_when_their_events_come_late() -> None:
    world = started()
    manifest = lgp_manifest("r2")
    world.cluster.put(manifest)
    world.watch()
    with world.events.lock(STREAM, 60):
        # A worker has applied an object, and has not appended the event yet; the watch is faster.
        world.cluster.edit(world.find("Deployment"))
        for _ in range(10):
            world.watch()
            world.clock.move(0.5)
    world.run()

    assert "DriftDetected" not in world.types()
    assert world.condition("Available")["status"] == "True"


def test_a_status_or_a_field_of_another_manager_is_no_drift() -> None:
    world = started()
    deployment = world.cluster.objects[world.find("Deployment")]
    deployment["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
    deployment["metadata"]["generation"] += 1
    world.run()

    assert "DriftDetected" not in world.types()


def test_an_object_that_another_writer_keeps_changing_is_repaired_ever_more_rarely() -> None:
    world = started()
    key = world.find("Service")
    for _ in range(120):
        world.cluster.edit(key)
        world.run(1)

    assert 5 <= world.types().count("DriftDetected") <= 12


def test_a_path_that_a_person_removed_from_the_shared_ingress_is_added_again() -> None:
    world = started()
    key = world.find("Ingress", name="shared")
    world.cluster.put(shared_ingress())
    world.run(5)

    assert [p["path"] for p in world.cluster.objects[key]["spec"]["rules"][0]["http"]["paths"]] == [f"/lgp/{NAME}"]
    assert world.types().count("DriftDetected") == 1


# --- the table


def test_every_life_is_reached_and_gone_leads_to_pruned_only_through_pruning() -> None:
    assert {after for _, _, after in TRANSITIONS} == set(Life) - {Life.UNKNOWN}
    assert [(before, event) for before, event, after in TRANSITIONS if after is Life.PRUNED] == [
        (Life.GONE, "ObjectsPruned(everything)")
    ]
