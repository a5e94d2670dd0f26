"""What an LGP's status says about its pods."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from engine import names
from engine.operator.observation.objects import observe_paths, observe_pod, template_digest
from engine.operator.status import timestamp
from engine.ports import Manifest, ObjectKey, lgp_key
from tests.support.operator import NAME, NAMESPACE, STREAM, OperatorWorld, lgp_manifest, shared_ingress, started

LABELS = {names.LGP_LABEL: NAME}
CRASH = "Traceback (most recent call last):\n  File agent.py\nRuntimeError: cannot log in with s3cret-password"


def replica_set(world: OperatorWorld, hash_: str = "abc") -> Manifest:
    """Return the ReplicaSet that a controller would create for the Agent Server's Deployment as it is now."""
    deployment = world.cluster.objects[world.find("Deployment")]
    template = deployment["spec"]["template"]
    labels = {**template["metadata"]["labels"], "pod-template-hash": hash_}
    return world.cluster.put(
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{NAME}-{hash_}",
                "namespace": NAMESPACE,
                "labels": {**LABELS, **labels},
                "ownerReferences": [{"kind": "Deployment", "uid": deployment["metadata"]["uid"], "controller": True}],
            },
            "spec": {"template": {**template, "metadata": {**template["metadata"], "labels": labels}}},
        }
    )


def pod(world: OperatorWorld, owner: Manifest, status: Manifest, name: str = "pod-1", secrets: str = "") -> None:
    env = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": secrets, "key": "k"}}}] if secrets else []
    world.cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": LABELS,
                "ownerReferences": [{"kind": owner["kind"], "uid": owner["metadata"]["uid"], "controller": True}],
            },
            "spec": {"containers": [{"name": "api-server", "env": env}]},
            "status": status,
        }
    )
    world.cluster.objects[ObjectKey(api_version="v1", kind="Pod", namespace=NAMESPACE, name=name)]["status"] = status


def container(state: Manifest, last: Manifest | None = None, **more: Any) -> Manifest:
    entry = {"name": "api-server", "ready": False, "state": state, "lastState": last or {}, **more}
    return {"containerStatuses": [entry]}


def waiting(reason: str, message: str = "") -> Manifest:
    return {"waiting": {"reason": reason, "message": message}}


def ended(message: str, code: int = 3) -> Manifest:
    return {"terminated": {"exitCode": code, "reason": "Error", "message": message}}


def status_of(world: OperatorWorld, key: ObjectKey, **counts: int) -> None:
    manifest = world.cluster.objects[key]
    manifest["status"] = {
        **manifest.get("status", {}),
        "observedGeneration": manifest["metadata"]["generation"],
        **counts,
    }


def rolling(world: OperatorWorld) -> Manifest:
    """Ask for a second revision whose new pod does not become ready while the old pod serves; return its ReplicaSet."""
    world.cluster.put(lgp_manifest("r2"))
    world.run(2, roll_out=False)
    for suffix in ("-queue", "-redis"):
        status_of(world, world.find("Deployment", suffix))
    status_of(world, world.find("Deployment"), replicas=2, updatedReplicas=1, readyReplicas=1, availableReplicas=1)
    return replica_set(world, "r2hash")


def test_an_image_that_cannot_be_pulled_degrades_and_the_earlier_revision_serves() -> None:
    world = started()
    new = rolling(world)
    pod(world, new, container(waiting("ErrImagePull", "registry.example/hello:r2: not found")))
    world.run(2, roll_out=False)

    degraded, available = world.condition("Degraded"), world.condition("Available")
    assert (degraded["status"], degraded["reason"]) == ("True", "ImagePullBackOff")
    assert f"Deployment {NAMESPACE}/{NAME}: pod pod-1, container api-server: " in degraded["message"]
    assert "registry.example/hello:r2: not found" in degraded["message"]
    assert (available["status"], available["reason"]) == ("False", "ImagePullBackOff")
    assert "revision r1 keeps serving" in available["message"]
    status = world.cluster.objects[lgp_key(NAMESPACE, NAME)]["status"]
    assert status["deploymentStatus"]["updateRevision"] == "r1"
    assert status["lastCreatedReplicaSet"]["name"] == f"{NAME}-r2hash"


def test_a_kubelet_that_alternates_between_two_reasons_reports_one_failure() -> None:
    world = started()
    new = rolling(world)
    pod(world, new, container(waiting("ErrImagePull", "not found")))
    world.run(2, roll_out=False)
    version, since = world.events.version(STREAM), world.condition("Degraded")["lastTransitionTime"]

    for reason in ("ImagePullBackOff", "ErrImagePull", "ImagePullBackOff"):
        pod(world, new, container(waiting(reason, "back-off")))
        world.run(2, roll_out=False)

    assert world.events.version(STREAM) == version
    assert world.condition("Degraded")["lastTransitionTime"] == since
    assert "not found" in world.condition("Degraded")["message"]


def test_a_crash_reports_its_last_lines_without_the_values_of_the_pods_secrets() -> None:
    world = started()
    world.cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "own", "namespace": NAMESPACE},
            "stringData": {"k": "s3cret-password"},
        }
    )
    new = rolling(world)
    pod(world, new, container(waiting("CrashLoopBackOff"), ended(CRASH)), secrets="own")
    world.run(2, roll_out=False)

    degraded = world.condition("Degraded")
    assert degraded["reason"] == "CrashLoopBackOff"
    assert "exit code 3, Error" in degraded["message"]
    assert "RuntimeError: cannot log in with ***" in degraded["message"]
    assert "s3cret" not in "".join(str(record.data) for record in world.events.read(STREAM))


def test_a_crash_log_is_withheld_when_a_secret_of_the_pod_cannot_be_read() -> None:
    world = started()
    new = rolling(world)
    pod(world, new, container(waiting("CrashLoopBackOff"), ended(CRASH)), secrets="gone")
    world.run(2, roll_out=False)

    assert "withheld: Secret gone" in world.condition("Degraded")["message"]
    assert "RuntimeError" not in "".join(str(record.data) for record in world.events.read(STREAM))


def test_a_crash_loop_is_one_failure_from_its_first_crash_on() -> None:
    world = started()
    new = rolling(world)
    pod(world, new, container(ended(CRASH)))
    world.run(2, roll_out=False)
    since, version = world.condition("Degraded")["lastTransitionTime"], world.events.version(STREAM)

    pod(world, new, container({"running": {}}, ended(CRASH)))
    world.run(2, roll_out=False)
    pod(world, new, container(waiting("CrashLoopBackOff", "back-off 10s"), ended("another text")))
    world.run(2, roll_out=False)

    assert world.events.version(STREAM) == version
    assert world.condition("Degraded")["lastTransitionTime"] == since


def test_the_same_failure_of_another_revision_begins_anew() -> None:
    world = started()
    pod(world, rolling(world), container(waiting("ImagePullBackOff", "no r2")))
    world.run(2, roll_out=False)
    first = world.condition("Degraded")["lastTransitionTime"]
    world.clock.move(100)

    world.cluster.put(lgp_manifest("r3"))
    world.run(2, roll_out=False)
    assert world.condition("Degraded")["status"] == "False"

    status_of(world, world.find("Deployment"))
    pod(world, replica_set(world, "r3hash"), container(waiting("ImagePullBackOff", "no r3")), name="pod-2")
    world.run(2, roll_out=False)
    degraded = world.condition("Degraded")
    assert degraded["lastTransitionTime"] > first
    assert "no r3" in degraded["message"]


def test_a_failing_pod_of_an_older_revision_is_no_problem() -> None:
    world = started()
    old = replica_set(world, "r1hash")
    new = rolling(world)
    pod(world, old, container(waiting("CrashLoopBackOff"), ended(CRASH)))
    pod(world, new, container({"running": {}}), name="pod-2")
    world.run(2, roll_out=False)

    assert world.condition("Degraded")["status"] == "False"


def test_a_server_that_crashes_before_its_database_is_ready_is_waiting_not_failing() -> None:
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run(2, roll_out=False)
    status_of(world, world.find("Deployment"), replicas=1, updatedReplicas=1)
    pod(world, replica_set(world), container(waiting("CrashLoopBackOff"), ended("no database")))
    world.run(5, roll_out=False)

    assert world.condition("Degraded")["status"] == "False"
    assert world.condition("Progressing")["reason"] == "WaitingForDatabase"
    assert world.condition("DatabaseReady")["status"] == "False"

    world.clock.move(120)
    ready_at = timestamp(world.clock.at)
    status_of(world, world.find("StatefulSet", "-db"), replicas=1, readyReplicas=1, updatedReplicas=1)
    world.run(5, roll_out=False)

    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "CrashLoopBackOff")
    # The time that the server has to become ready begins when the database is ready.
    assert degraded["lastTransitionTime"] >= ready_at


def test_a_database_that_fits_no_node_is_reported_while_the_server_waits() -> None:
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest())
    world.run(2, roll_out=False)
    message = "pod has unbound immediate PersistentVolumeClaims"
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    database = world.find("StatefulSet", "-db")
    status_of(world, database, replicas=1, updatedReplicas=1)
    pod(world, world.cluster.objects[database], {"conditions": [scheduled]}, name="db-0")
    world.run(5, roll_out=False)

    assert world.condition("DatabaseReady")["message"] == f"Postgres is not ready yet; {message}"
    assert message in world.condition("Progressing")["message"]


def test_after_the_rollout_only_the_loss_of_the_last_pod_makes_the_lgp_unavailable() -> None:
    world = started(serverSpec={"replicas": 2})
    deployment = world.find("Deployment")
    status_of(world, deployment, replicas=2, updatedReplicas=2, readyReplicas=1, availableReplicas=1)
    world.run(2, roll_out=False)
    assert world.condition("Available")["status"] == "True"

    status_of(world, deployment, readyReplicas=0, availableReplicas=0)
    world.run(2, roll_out=False)
    assert (world.condition("Available")["status"], world.condition("Available")["reason"]) == ("False", "NoReplicas")


def test_the_lgp_is_not_available_while_an_old_replica_is_left() -> None:
    world = started()
    world.cluster.put(lgp_manifest("r2"))
    world.run(2, roll_out=False)
    status_of(world, world.find("Deployment", "-queue"))
    status_of(world, world.find("Deployment"), replicas=2, updatedReplicas=1, readyReplicas=2, availableReplicas=2)
    world.run(2, roll_out=False)

    assert world.condition("Available")["status"] == "False"
    assert world.condition("Progressing")["status"] == "True"


def test_a_passed_progress_deadline_and_pods_that_cannot_be_created_are_reported() -> None:
    world = started()
    rolling(world)
    key = world.find("Deployment")
    world.cluster.objects[key]["status"]["conditions"] = [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: pods"},
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "has timed out"},
    ]
    world.run(2, roll_out=False)

    degraded = world.condition("Degraded")
    assert degraded["reason"] == "FailedCreate"
    assert "exceeded quota: pods" in degraded["message"]
    assert "has timed out" in degraded["message"]
    assert world.condition("Progressing")["status"] == "False"


def test_times_are_those_of_events_in_whole_seconds() -> None:
    world = started()

    assert world.condition("Available")["lastTransitionTime"] == timestamp(world.clock.at - timedelta(seconds=10))


# --- observed objects


def test_a_pod_that_fits_no_node_is_waiting_for_one() -> None:
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
    sight = observe_pod({"metadata": {"uid": "u", "name": "p"}, "status": {"conditions": conditions}})
    assert (sight.unschedulable, sight.failure) == ("0/3 nodes", None)


def test_a_pod_that_is_being_deleted_has_no_failure() -> None:
    metadata = {"uid": "u", "name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert observe_pod({"metadata": metadata, "status": container(ended("killed", 137))}).failure is None


def test_an_init_container_that_fails_is_named() -> None:
    entry = {"name": "migrate", "ready": False, "state": waiting("CrashLoopBackOff"), "lastState": ended("no table")}
    sight = observe_pod({"metadata": {"uid": "u", "name": "p"}, "status": {"initContainerStatuses": [entry]}})
    assert sight.failure is not None
    assert (sight.failure.container, sight.failure.log) == ("migrate", "no table")


def test_a_container_that_is_ready_again_has_no_failure() -> None:
    recovered = container({"running": {}}, ended("once"), ready=True)
    assert observe_pod({"metadata": {"uid": "u", "name": "p"}, "status": recovered}).failure is None


def test_a_replica_set_has_the_template_of_its_deployment() -> None:
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}
    hashed = {"metadata": {"labels": {"app": "x", "pod-template-hash": "1"}}, "spec": {"containers": []}}
    assert template_digest(template) == template_digest(hashed)
    assert template_digest(template) != template_digest({**template, "spec": {"containers": [1]}})


def test_routes_of_an_ingress() -> None:
    rules = [
        {
            "host": "a",
            "http": {"paths": [{"path": "/x", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]},
        },
        {"http": {"paths": [{"path": "/y", "backend": {"service": {"name": "t", "port": {"name": "web"}}}}]}},
        {"host": "empty"},
    ]
    assert observe_paths({"spec": {"rules": rules}}) == {("a", "/x"): ("s", 80), ("", "/y"): ("t", "web")}
