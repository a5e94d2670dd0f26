"""Deployments, ReplicaSets and StatefulSets: kube-controller-manager, and the sandbox's controllers.

No kubelet runs here: `settle` makes Pods ready, as the case wants.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import Api, generation
from tests.conformance.objects import (
    Object,
    claim_template,
    container,
    deployment,
    owned_by,
    secret,
    stateful_set,
    widget,
)
from tests.conformance.workloads import (
    condition,
    is_ready,
    live_pods,
    make_ready,
    rolled_out,
    set_rolled_out,
    settle,
)
from tests.support.eventually import eventually

REVISION = "deployment.kubernetes.io/revision"


def deploy(api: Api, **spec: Any) -> Object:
    """A Deployment `web` whose Pods are ready."""
    api.create("deployments", deployment("web", **spec))
    settle(api, lambda: rolled_out(api, "web"), "web is rolled out")
    return api.get("deployments", "web")


def set_image(api: Api, image: str, resource: str = "deployments") -> Object:
    containers = [{"name": "main", "image": image}]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    return api.patch(resource, "web", patch, "strategic")


def images(pods: list[Object]) -> list[str]:
    return sorted(pod["spec"]["containers"][0]["image"] for pod in pods)


def replica_sets(api: Api) -> dict[str, Object]:
    """Return all ReplicaSets of the namespace by revision."""
    items = api.list("replicasets")["items"]
    return {item["metadata"]["annotations"][REVISION]: item for item in items}


# Deployments


def test_a_deployment_makes_a_replica_set_that_makes_pods(api: Api) -> None:
    made = api.create("deployments", deployment("web", replicas=2))
    pods = eventually(lambda: found if len(found := live_pods(api)) == 2 else None, "two Pods are there")
    (replica_set,) = api.list("replicasets")["items"]
    suffix = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{suffix}"
    assert replica_set["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": suffix}
    (owner,) = replica_set["metadata"]["ownerReferences"]
    assert owner == {**owned_by(made, controller=True, block=True)[0]}
    for pod in pods:
        assert pod["metadata"]["name"].startswith(f"web-{suffix}-")
        assert pod["metadata"]["labels"] == {"app": "web", "pod-template-hash": suffix}
        assert pod["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]


def test_the_status_counts_and_says_why(api: Api) -> None:
    api.create("deployments", deployment("web", replicas=2))
    eventually(lambda: api.get("deployments", "web")["status"].get("replicas") == 2, "the Pods are counted")
    waiting = api.get("deployments", "web")
    assert waiting["status"]["unavailableReplicas"] == 2
    assert "readyReplicas" not in waiting["status"]
    assert condition(waiting, "Available")["status"] == "False"
    assert condition(waiting, "Available")["reason"] == "MinimumReplicasUnavailable"
    assert condition(waiting, "Progressing")["status"] == "True"
    settle(api, lambda: rolled_out(api, "web"), "web is rolled out")
    eventually(
        lambda: condition(api.get("deployments", "web"), "Progressing")["reason"] == "NewReplicaSetAvailable",
        "the rollout is reported as done",
    )
    serving = api.get("deployments", "web")
    counted = {key: value for key, value in serving["status"].items() if key != "conditions"}
    assert counted == {
        "observedGeneration": generation(serving),
        "replicas": 2,
        "updatedReplicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 2,
    }
    assert condition(serving, "Available")["status"] == "True"
    assert condition(serving, "Available")["reason"] == "MinimumReplicasAvailable"
    assert serving["metadata"]["annotations"][REVISION] == "1"


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable"),
    [(2, 1, 0), (4, 0, 2), (4, "25%", "25%"), (3, "100%", 0), (1, "25%", "25%")],
)
def test_a_rolling_update_stays_within_its_limits(
    api: Api, replicas: int, surge: int | str, unavailable: int | str
) -> None:
    limits = {"maxSurge": surge, "maxUnavailable": unavailable}
    strategy = {"type": "RollingUpdate", "rollingUpdate": limits}
    deploy(api, replicas=replicas, strategy=strategy)

    def share(value: int | str, up: bool) -> int:
        if isinstance(value, int):
            return value
        exact = int(value.rstrip("%")) * replicas / 100
        return -int(-exact // 1) if up else int(exact)

    def check(pods: list[Object]) -> None:
        assert len(pods) <= replicas + share(surge, True)
        assert sum(map(is_ready, pods)) >= replicas - share(unavailable, False)

    set_image(api, "other:2")
    settle(api, lambda: rolled_out(api, "web"), "the update is rolled out", watch=check)
    assert images(live_pods(api)) == ["other:2"] * replicas
    sets = replica_sets(api)
    assert sets["1"]["spec"]["replicas"] == 0
    assert sets["2"]["spec"]["replicas"] == replicas


def test_recreate_never_mixes(api: Api) -> None:
    deploy(api, replicas=2, strategy={"type": "Recreate"})
    set_image(api, "other:2")

    def check(pods: list[Object]) -> None:
        assert len(set(images(pods))) <= 1

    settle(api, lambda: rolled_out(api, "web"), "the update is rolled out", watch=check)
    assert images(live_pods(api)) == ["other:2"] * 2


def test_a_bad_update_leaves_the_old_pods_serving(api: Api) -> None:
    deploy(api, replicas=2, progressDeadlineSeconds=1)
    before = {pod["metadata"]["uid"] for pod in live_pods(api)}
    set_image(api, "broken:1")
    eventually(
        lambda: condition(api.get("deployments", "web"), "Progressing")["status"] == "False",
        "the lack of progress is noticed",
    )
    stuck = api.get("deployments", "web")
    assert condition(stuck, "Progressing")["reason"] == "ProgressDeadlineExceeded"
    assert condition(stuck, "Available")["status"] == "True"
    assert stuck["status"]["availableReplicas"] == 2
    assert stuck["status"]["updatedReplicas"] == 1
    assert before <= {pod["metadata"]["uid"] for pod in live_pods(api)}


def test_a_late_success_clears_the_failure(api: Api) -> None:
    api.create("deployments", deployment("web", progressDeadlineSeconds=1))
    eventually(
        lambda: condition(api.get("deployments", "web"), "Progressing").get("status") == "False",
        "the lack of progress is noticed",
    )
    settle(api, lambda: rolled_out(api, "web"), "web is rolled out")
    eventually(
        lambda: condition(api.get("deployments", "web"), "Progressing")["reason"] == "NewReplicaSetAvailable",
        "the success is reported",
    )


def test_going_back_reuses_the_replica_set(api: Api) -> None:
    first = deploy(api)["spec"]["template"]["spec"]["containers"][0]["image"]
    original = replica_sets(api)["1"]["metadata"]["uid"]
    set_image(api, "other:2")
    settle(api, lambda: rolled_out(api, "web"), "the update is rolled out")
    set_image(api, first)
    settle(api, lambda: rolled_out(api, "web"), "the rollback is rolled out")
    sets = replica_sets(api)
    assert set(sets) == {"2", "3"}
    assert sets["3"]["metadata"]["uid"] == original
    assert sets["3"]["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"
    assert api.get("deployments", "web")["metadata"]["annotations"][REVISION] == "3"


def test_history_is_limited(api: Api) -> None:
    deploy(api, revisionHistoryLimit=1)
    for number in (2, 3):
        set_image(api, f"other:{number}")
        settle(api, lambda: rolled_out(api, "web"), "the update is rolled out")
    eventually(lambda: set(replica_sets(api)) == {"2", "3"}, "the oldest ReplicaSet is gone")


def test_paused_deployments_roll_out_nothing(api: Api) -> None:
    deploy(api)
    api.patch("deployments", "web", {"spec": {"paused": True}})
    changed = set_image(api, "other:2")
    eventually(
        lambda: api.get("deployments", "web")["status"]["observedGeneration"] == generation(changed),
        "the change is observed",
    )
    assert condition(api.get("deployments", "web"), "Progressing")["reason"] == "DeploymentPaused"
    assert set(replica_sets(api)) == {"1"}
    api.patch("deployments", "web", {"spec": {"paused": False}})
    settle(api, lambda: rolled_out(api, "web"), "the change is rolled out")
    assert images(live_pods(api)) == ["other:2"]


def test_scaling(api: Api) -> None:
    deploy(api, replicas=1)
    (first,) = live_pods(api)
    api.patch("deployments", "web", {"spec": {"replicas": 3}}, sub="scale")
    eventually(lambda: len(live_pods(api)) == 3, "three Pods are there")
    api.patch("deployments", "web", {"spec": {"replicas": 1}}, sub="scale")
    eventually(lambda: len(live_pods(api)) == 1, "one Pod is left")
    assert live_pods(api)[0]["metadata"]["uid"] == first["metadata"]["uid"]  # the only Pod that was ready
    api.patch("deployments", "web", {"spec": {"replicas": 0}}, sub="scale")
    eventually(lambda: not live_pods(api), "no Pod is left")
    eventually(lambda: "replicas" not in api.get("deployments", "web")["status"], "none is counted")
    assert len(replica_sets(api)) == 1


def test_scaling_in_the_middle_of_a_rollout(api: Api) -> None:
    limits = {"maxSurge": 1, "maxUnavailable": 1}
    deploy(api, replicas=4, strategy={"type": "RollingUpdate", "rollingUpdate": limits})
    set_image(api, "broken:1")
    eventually(lambda: api.get("deployments", "web")["status"].get("updatedReplicas") == 2, "the rollout is half-way")
    api.patch("deployments", "web", {"spec": {"replicas": 8}}, sub="scale")
    sizes = eventually(
        lambda: found if sum(found := [item["spec"]["replicas"] for item in replica_sets(api).values()]) == 9 else None,
        "both ReplicaSets have grown to replicas and surge",
    )
    assert min(sizes) > 2
    settle(api, lambda: rolled_out(api, "web"), "everything is rolled out")
    assert images(live_pods(api)) == ["broken:1"] * 8


def test_lost_pods_are_replaced(api: Api) -> None:
    deploy(api, replicas=2)
    lost, kept = live_pods(api)
    api.delete("pods", lost["metadata"]["name"])
    settle(api, lambda: rolled_out(api, "web") and len(live_pods(api)) == 2, "two Pods are ready again")
    uids = {pod["metadata"]["uid"] for pod in live_pods(api)}
    assert kept["metadata"]["uid"] in uids
    assert lost["metadata"]["uid"] not in uids


def test_failed_pods_are_replaced(api: Api) -> None:
    deploy(api)
    (pod,) = live_pods(api)
    api.patch("pods", pod["metadata"]["name"], {"status": {"phase": "Failed"}}, sub="status")
    eventually(lambda: len(live_pods(api)) == 2, "another Pod is made")


def test_ready_is_not_yet_available(api: Api) -> None:
    api.create("deployments", deployment("web", minReadySeconds=3))
    pod = eventually(lambda: live_pods(api), "the Pod is there")[0]
    make_ready(api, pod)
    eventually(lambda: api.get("deployments", "web")["status"].get("readyReplicas") == 1, "the Pod is ready")
    assert api.get("deployments", "web")["status"].get("availableReplicas", 0) == 0
    eventually(lambda: api.get("deployments", "web")["status"].get("availableReplicas") == 1, "it is available")


def test_orphaned_pods_are_adopted(api: Api) -> None:
    deploy(api, replicas=2)
    before = {pod["metadata"]["uid"] for pod in live_pods(api)}
    api.delete("deployments", "web", "Orphan")
    eventually(lambda: api.find("deployments", "web") is None, "the Deployment is gone")
    assert {pod["metadata"]["uid"] for pod in live_pods(api)} == before
    again = api.create("deployments", deployment("web", replicas=2))
    eventually(lambda: rolled_out(api, "web"), "the new Deployment has taken over")
    assert {pod["metadata"]["uid"] for pod in live_pods(api)} == before
    (replica_set,) = api.list("replicasets")["items"]
    assert replica_set["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"]


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_deletion_takes_the_pods_along(api: Api, propagation: str) -> None:
    deploy(api, replicas=2)
    api.delete("deployments", "web", propagation)
    for resource in ("deployments", "replicasets", "pods"):
        eventually(lambda resource=resource: not api.names(resource), f"no {resource} are left")  # type: ignore[misc]


def test_a_second_reconciliation_changes_nothing(api: Api) -> None:
    """The controllers write nothing to a Deployment that matches its spec."""
    deploy(api)
    eventually(
        lambda: condition(api.get("deployments", "web"), "Progressing")["reason"] == "NewReplicaSetAvailable",
        "the rollout is reported as done",
    )
    before = api.get("deployments", "web"), api.list("replicasets")["items"], live_pods(api)
    labelled = api.patch("pods", before[2][0]["metadata"]["name"], {"metadata": {"labels": {"more": "1"}}})
    eventually(lambda: api.get("pods", labelled["metadata"]["name"])["metadata"]["labels"].get("more"), "it is stored")
    assert (api.get("deployments", "web"), api.list("replicasets")["items"]) == before[:2]


def test_a_replica_set_of_its_own(api: Api) -> None:
    body = deployment("web", replicas=2)
    body["kind"] = "ReplicaSet"
    api.create("replicasets", body)
    settle(api, lambda: api.get("replicasets", "web")["status"].get("readyReplicas") == 2, "both Pods are ready")
    assert api.get("replicasets", "web")["status"] == {
        "replicas": 2,
        "fullyLabeledReplicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 2,
        "observedGeneration": 1,
    }


# StatefulSets


def run_set(api: Api, **spec: Any) -> Object:
    """A StatefulSet `web` whose Pods are ready."""
    api.create("statefulsets", stateful_set("web", **spec))
    settle(api, lambda: set_rolled_out(api, "web"), "web is rolled out")
    return api.get("statefulsets", "web")


def pod_names(api: Api) -> list[str]:
    return [pod["metadata"]["name"] for pod in live_pods(api)]


def test_a_set_grows_in_order(api: Api) -> None:
    api.create("statefulsets", stateful_set("web", replicas=3))
    for expected in (["web-0"], ["web-0", "web-1"], ["web-0", "web-1", "web-2"]):
        eventually(lambda expected=expected: pod_names(api) == expected, f"the Pods are {expected}")  # type: ignore[misc]
        make_ready(api, live_pods(api)[-1])
    eventually(lambda: set_rolled_out(api, "web"), "web is rolled out")


def test_a_set_may_grow_at_once(api: Api) -> None:
    api.create("statefulsets", stateful_set("web", replicas=3, podManagementPolicy="Parallel"))
    eventually(lambda: pod_names(api) == ["web-0", "web-1", "web-2"], "all Pods are there")


def test_pods_of_a_set_have_an_identity(api: Api) -> None:
    made = run_set(api)
    (pod,) = live_pods(api)
    assert pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "web-0"
    suffix = pod["metadata"]["labels"]["controller-revision-hash"]
    assert made["status"]["updateRevision"] in (suffix, f"web-{suffix}")
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("web-0", "web")
    assert pod["metadata"]["ownerReferences"] == owned_by(made, controller=True, block=True)


def test_the_status_of_a_set(api: Api) -> None:
    made = run_set(api, replicas=2)
    status = made["status"]
    assert status["observedGeneration"] == generation(made)
    assert {status[key] for key in ("replicas", "readyReplicas", "currentReplicas", "updatedReplicas")} == {2}
    assert status["currentRevision"] == status["updateRevision"]


def test_persistent_volume_claims_of_a_set(api: Api) -> None:
    run_set(api, replicas=2, volumeClaimTemplates=[claim_template()])
    assert api.names("persistentvolumeclaims") == ["data-web-0", "data-web-1"]
    claim = api.get("persistentvolumeclaims", "data-web-0")
    assert claim["metadata"]["labels"] == {"app": "web"}
    assert "ownerReferences" not in claim["metadata"]
    (volume,) = live_pods(api)[0]["spec"]["volumes"]
    assert (volume["name"], volume["persistentVolumeClaim"]["claimName"]) == ("data", "data-web-0")


def test_persistent_volume_claims_outlive_pods_and_set(api: Api) -> None:
    run_set(api, replicas=2, volumeClaimTemplates=[claim_template()])
    before = api.get("persistentvolumeclaims", "data-web-1")["metadata"]["uid"]
    api.patch("statefulsets", "web", {"spec": {"replicas": 1}})
    eventually(lambda: pod_names(api) == ["web-0"], "the last Pod is gone")
    api.delete("statefulsets", "web", "Background")
    eventually(lambda: not pod_names(api), "all Pods are gone")
    assert api.get("persistentvolumeclaims", "data-web-1")["metadata"]["uid"] == before


def test_persistent_volume_claims_may_be_deleted_with_the_set(api: Api) -> None:
    policy = {"whenDeleted": "Delete", "whenScaled": "Retain"}
    made = run_set(api, volumeClaimTemplates=[claim_template()], persistentVolumeClaimRetentionPolicy=policy)
    claim = api.get("persistentvolumeclaims", "data-web-0")
    assert [item["uid"] for item in claim["metadata"]["ownerReferences"]] == [made["metadata"]["uid"]]
    api.delete("statefulsets", "web", "Background")
    eventually(lambda: not api.names("persistentvolumeclaims"), "the claims are gone")


def test_persistent_volume_claims_may_be_deleted_with_the_pod(api: Api) -> None:
    policy = {"whenDeleted": "Retain", "whenScaled": "Delete"}
    claims = [claim_template()]
    run_set(api, replicas=2, volumeClaimTemplates=claims, persistentVolumeClaimRetentionPolicy=policy)
    api.patch("statefulsets", "web", {"spec": {"replicas": 1}})
    eventually(lambda: api.names("persistentvolumeclaims") == ["data-web-0"], "the last claim is gone")


def test_a_set_shrinks_from_the_end(api: Api) -> None:
    run_set(api, replicas=3)
    seen: list[list[str]] = []
    api.patch("statefulsets", "web", {"spec": {"replicas": 1}})
    settle(
        api,
        lambda: pod_names(api) == ["web-0"],
        "one Pod is left",
        watch=lambda pods: seen.append([pod["metadata"]["name"] for pod in pods]),
    )
    assert all(names == [f"web-{number}" for number in range(len(names))] for names in seen)


def test_a_lost_pod_returns_under_its_name(api: Api) -> None:
    run_set(api, replicas=2)
    before = live_pods(api)[0]["metadata"]["uid"]
    api.delete("pods", "web-0")
    settle(api, lambda: set_rolled_out(api, "web") and len(live_pods(api)) == 2, "both Pods are ready")
    assert pod_names(api) == ["web-0", "web-1"]
    assert live_pods(api)[0]["metadata"]["uid"] != before


def test_a_set_is_updated_from_the_end(api: Api) -> None:
    first = run_set(api, replicas=3)["status"]["currentRevision"]
    set_image(api, "other:2", "statefulsets")

    def check(pods: list[Object]) -> None:
        updated = [pod["spec"]["containers"][0]["image"] == "other:2" for pod in pods]
        assert updated == sorted(updated)
        assert len(pods) >= 2

    settle(api, lambda: set_rolled_out(api, "web"), "the update is rolled out", watch=check)
    status = api.get("statefulsets", "web")["status"]
    assert images(live_pods(api)) == ["other:2"] * 3
    assert status["currentRevision"] == status["updateRevision"] != first


def test_a_stuck_update_touches_no_other_pod(api: Api) -> None:
    run_set(api, replicas=2)
    kept = live_pods(api)[0]["metadata"]["uid"]
    set_image(api, "broken:1", "statefulsets")
    eventually(lambda: images(live_pods(api)).count("broken:1") == 1, "the last Pod is replaced")
    eventually(lambda: api.get("statefulsets", "web")["status"].get("updatedReplicas") == 1, "it is counted")
    status = api.get("statefulsets", "web")["status"]
    assert live_pods(api)[0]["metadata"]["uid"] == kept
    assert status["currentRevision"] != status["updateRevision"]
    assert status["readyReplicas"] == 1


def test_updates_stop_at_the_partition(api: Api) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    first = run_set(api, replicas=2, updateStrategy=strategy)["spec"]["template"]["spec"]["containers"][0]["image"]
    set_image(api, "other:2", "statefulsets")
    settle(
        api,
        lambda: images(live_pods(api)) == ["other:2", first] and all(map(is_ready, live_pods(api))),
        "the last Pod is updated",
    )
    api.delete("pods", "web-0")
    settle(api, lambda: len(live_pods(api)) == 2, "the first Pod is back")
    assert live_pods(api)[0]["spec"]["containers"][0]["image"] == first


def test_updates_on_deletion_only(api: Api) -> None:
    run_set(api, replicas=2, updateStrategy={"type": "OnDelete"})
    changed = set_image(api, "other:2", "statefulsets")
    eventually(
        lambda: api.get("statefulsets", "web")["status"]["observedGeneration"] == generation(changed),
        "the change is observed",
    )
    assert "other:2" not in images(live_pods(api))
    api.delete("pods", "web-0")
    eventually(lambda: images(live_pods(api)).count("other:2") == 1, "the deleted Pod has the new template")


def test_deleting_a_set_deletes_its_pods(api: Api) -> None:
    run_set(api, replicas=2)
    api.delete("statefulsets", "web", "Background")
    eventually(lambda: not api.names("pods"), "no Pods are left")


# Ownership across kinds. Last, because the real garbage collector learns of a new kind only every 30 s.


def test_custom_resources_own_builtin_ones(api: Api, widgets: Object) -> None:
    owner = api.create("widgets", widget("owner"))
    references = owned_by(owner, controller=True, block=True)
    web = deployment("web", containers=[container()], metadata={"ownerReferences": references})
    api.create("deployments", web)
    api.create("secrets", secret("key", metadata={"ownerReferences": references}))
    eventually(lambda: live_pods(api), "the Deployment made a Pod")
    api.delete("widgets", "owner", "Background")
    for resource in ("deployments", "replicasets", "pods"):
        eventually(lambda resource=resource: not api.names(resource), f"no {resource} are left", seconds=60)  # type: ignore[misc]
    eventually(lambda: api.find("secrets", "key") is None, "the Secret is gone")
