"""Our operator adopts the objects of upstream's operator, on a real API server; upstream's listener stays."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from engine.kubernetes.permissions import needed, together
from engine.log.memory import MemoryLog
from engine.names import LGP_LABEL
from engine.operator.config import Templates
from engine.operator.state import Life
from engine.ports import Manifest
from engine.settings import Settings
from tests.adoption.cluster import Cluster
from tests.adoption.components import environment, ours, upstream_in, wait_adopted
from tests.adoption.objects import (
    HOST,
    LISTENER_MANAGER,
    NEXT,
    OPERATOR_MANAGER,
    PASSWORD,
    TOKEN,
    Upstream,
    create,
    install,
    path_of,
    replace,
)
from tests.support.eventually import eventually
from tests.support.operator_stack import CONFIG
from tests.support.service_accounts import account, rules

# --- what stays


@pytest.mark.parametrize("applied", [False, True], ids=["updated", "applied"])
def test_nothing_restarts_and_nothing_is_created_twice(cluster: Cluster, applied: bool) -> None:
    upstream = Upstream(namespace=cluster.namespace)
    cluster.upstream(upstream, applied=applied)
    before = cluster.snapshot(upstream)

    with ours(cluster) as operator:
        kept = wait_adopted(operator, upstream.name)

        assert {key: one.differences for key, one in kept.objects.items() if one.differences} == {}
        assert cluster.snapshot(upstream) == before
        assert operator.drifts(upstream.name) == []
        assert operator.types(upstream.name)[:3] == ["LgpObserved", "ObjectsAdopted", "ObjectsApplied"]
        with_pods = {key.split()[0] for key, one in kept.objects.items() if one.template_digest}
        assert with_pods == {"Deployment", "StatefulSet"}
        assert kept.database is not None
        assert (kept.database.name, kept.database.secret) == (upstream.database, upstream.secret)
        assert kept.managers == (OPERATOR_MANAGER,)
        logged = "".join(str(record.data) for record in operator.events.read(operator.stream(upstream.name)))
        assert PASSWORD not in logged
        assert TOKEN not in logged


def test_adopted_pods_are_watched_although_they_carry_no_label_of_ours(cluster: Cluster) -> None:
    upstream, _ = upstream_in(cluster)

    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)
        server = cluster.get(upstream.server())
        sets = {one["metadata"]["name"]: one for one in cluster.items("/apis/apps/v1", "replicasets")}
        mine = [
            n for n, one in sets.items() if one["metadata"]["ownerReferences"][0]["uid"] == server["metadata"]["uid"]
        ]

        eventually(
            lambda: operator.lgp(upstream.name)["status"].get("lastSuccessfulReplicaSet", {}).get("name") == mine[0],
            "the status names the ReplicaSet that upstream made",
        )


def test_a_lost_log_restarts_nothing(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)

    with ours(cluster, events=MemoryLog()) as again:
        kept = wait_adopted(again, upstream.name)

        assert cluster.snapshot(upstream) == before
        assert kept.database is not None
        assert kept.database.name == upstream.database


def test_the_operators_own_permissions_are_enough(cluster: Cluster, tmp_path: Path) -> None:
    settings = Settings.load(
        listener_enabled=False, watch_namespaces=cluster.namespace, ingress_hostname=HOST, digest_key="any-long-text"
    )
    allowed = rules(together(needed(settings).values()))
    upstream, before = upstream_in(cluster)
    kubeconfig = account(cluster.api.kubeconfig, cluster.http, cluster.namespace, allowed, tmp_path)

    with ours(cluster, kubeconfig) as operator:
        wait_adopted(operator, upstream.name)
        assert cluster.snapshot(upstream) == before

        cluster.merge(upstream.lgp(), {"spec": {"serverSpec": {"image": NEXT}}}, LISTENER_MANAGER)
        eventually(lambda: operator.available(upstream.name, 2), "the next revision is rolled out")
        assert not [kind for kind in operator.types(upstream.name) if kind in ("ActRefused", "ObjectRejected")]


def test_going_back_restarts_nothing_either(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)
        owner = operator.lgp(upstream.name)["metadata"]["uid"]

    for theirs in (upstream.server(owner), upstream.queue(owner), upstream.redis(owner)):
        replace(cluster.http, theirs, OPERATOR_MANAGER)

    eventually(cluster.rolled_out, "upstream's Deployments are rolled out again")
    assert cluster.snapshot(upstream) == before


def test_adopted_objects_are_deleted_with_their_lgp_claims_included(cluster: Cluster) -> None:
    upstream, _ = upstream_in(cluster)
    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)

        cluster.http.delete(f"{path_of(upstream.lgp())}/{upstream.name}").raise_for_status()

        eventually(lambda: operator.state(upstream.name).life is Life.PRUNED, "no object of the LGP is left")
        apps = "/apis/apps/v1"
        eventually(lambda: not cluster.items(apps, "deployments") + cluster.items(apps, "statefulsets"), "workloads go")
        eventually(lambda: all("deletionTimestamp" in one["metadata"] for one in cluster.claims()), "claims go")
        (ingress,) = cluster.items("/apis/networking.k8s.io/v1", "ingresses")
        assert [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]] == ["/metrics"]


MANAGED = CONFIG.model_copy(update={"managed_service_accounts": True, "pod_disruption_budgets": True})
ACCOUNT: dict[str, Any] = {"serviceAccount": {"annotations": {"client": "c-1"}}}


def with_an_account(cluster: Cluster) -> tuple[Upstream, dict[str, Manifest]]:
    """Create an Agent Server with a ServiceAccount and a budget, as upstream does; return it, and both by kind."""
    name = Upstream(namespace=cluster.namespace).name
    upstream = Upstream(namespace=cluster.namespace, account=f"{name}-sa")
    lgp = cluster.upstream(upstream, managedResources=ACCOUNT)
    metadata = upstream.metadata(upstream.account, lgp["metadata"]["uid"])
    annotated = {**metadata, "annotations": {"client": "c-1"}}
    made: Manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": annotated}
    metadata = upstream.metadata(upstream.name, lgp["metadata"]["uid"])
    spec = {"minAvailable": "50%", "selector": {"matchLabels": {"app": upstream.name}}}
    budget: Manifest = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}
    return upstream, {one["kind"]: create(cluster.http, one, OPERATOR_MANAGER) for one in (made, budget)}


def test_an_account_and_a_budget_are_adopted_and_nothing_restarts(cluster: Cluster) -> None:
    upstream, made = with_an_account(cluster)
    before = cluster.snapshot(upstream)

    with ours(cluster, config=MANAGED) as operator:
        kept = wait_adopted(operator, upstream.name)

        assert {key: one.differences for key, one in kept.objects.items() if one.differences} == {}
        assert cluster.snapshot(upstream) == before
        account, budget = (cluster.get(made[kind]) for kind in ("ServiceAccount", "PodDisruptionBudget"))
        assert account["metadata"]["uid"] == made["ServiceAccount"]["metadata"]["uid"]
        assert account["metadata"]["annotations"] == {"client": "c-1"}
        assert budget["metadata"]["uid"] == made["PodDisruptionBudget"]["metadata"]["uid"]
        assert (budget["spec"]["maxUnavailable"], budget["spec"].get("minAvailable")) == (1, None)
        assert operator.drifts(upstream.name) == []
        assert operator.condition(upstream.name, "Degraded")["status"] == "False"


def test_an_account_that_the_operator_may_not_create_stops_everything(cluster: Cluster) -> None:
    upstream, made = with_an_account(cluster)
    before = cluster.snapshot(upstream)

    with ours(cluster) as operator:
        eventually(
            lambda: operator.condition(upstream.name, "Degraded").get("reason") == "ManagedResourcesOff",
            "the LGP is refused",
        )
        assert (
            "operator.managedResources.serviceAccounts=true"
            in (operator.condition(upstream.name, "Degraded")["message"])
        )
        operator.quiet(upstream.name)

    assert cluster.snapshot(upstream) == before
    assert cluster.get(made["ServiceAccount"]) == made["ServiceAccount"]


# --- what changes, and when


def test_the_next_revision_replaces_the_pods_and_removes_unplanned_fields(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)

        env = [*upstream.environment()[:-1], {"name": "LANGSMITH_HOST_REVISION_ID", "value": "next"}]
        env = [entry for entry in env if entry != upstream.environment()[1]]
        cluster.merge(upstream.lgp(), {"spec": {"serverSpec": {"image": NEXT, "env": env}}}, LISTENER_MANAGER)
        eventually(lambda: operator.available(upstream.name, 2), "the next revision is rolled out")
        operator.quiet(upstream.name)

        after = cluster.snapshot(upstream)
        server = cluster.get(upstream.server())
        assert after.uids == before.uids
        assert (after.password, after.claims, after.paths) == (before.password, before.claims, before.paths)
        assert server["spec"]["selector"] == {"matchLabels": {"app": upstream.name}}
        assert server["spec"]["template"]["metadata"]["labels"].keys() == {
            "app",
            "team",
            LGP_LABEL,
            "app.kubernetes.io/managed-by",
        }
        found = environment(server)
        assert server["spec"]["template"]["spec"]["containers"][0]["image"] == NEXT
        assert {"LSD_SOMETHING_OF_ITS_OWN", "OPENAI_API_KEY"}.isdisjoint(found)
        uri = f"postgresql://langgraph:$(POSTGRES_PASSWORD)@{upstream.database}.{cluster.namespace}.svc.cluster.local"
        assert found["POSTGRES_URI"] == f"{uri}:5432/agents?sslmode=disable"
        assert found["POSTGRES_PASSWORD"]["secretKeyRef"]["name"] == upstream.secret
        # Postgres and Redis were asked for nothing new.
        for name in (upstream.database, f"{upstream.name}-redis"):
            assert after.templates[name] == before.templates[name], name
        assert operator.drifts(upstream.name) == []


def test_pods_behind_their_lgp_are_replaced_and_the_log_says_why(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    cluster.merge(upstream.lgp(), {"spec": {"serverSpec": {"image": NEXT}}}, LISTENER_MANAGER)

    with ours(cluster) as operator:
        kept = wait_adopted(operator, upstream.name)

        why = {key.rpartition("/")[2]: one.differences for key, one in kept.objects.items() if one.differences}
        image = "containers[api-server].image"
        assert why == {upstream.name: (image,), f"{upstream.name}-queue": (image,)}
        after = cluster.snapshot(upstream)
        assert after.uids == before.uids
        assert after.claims == before.claims
        assert after.templates[upstream.database] == before.templates[upstream.database]
        assert after.templates[upstream.name] != before.templates[upstream.name]


def test_a_generation_that_upstream_never_rolled_out_is_rolled_out(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    path = f"{path_of(upstream.lgp())}/{upstream.name}/status"
    headers = {"Content-Type": "application/merge-patch+json"}
    cluster.http.patch(path, json={"status": {"observedGeneration": 1}}, headers=headers).raise_for_status()
    without = upstream.environment()[:-1]
    cluster.merge(upstream.lgp(), {"spec": {"serverSpec": {"env": without}}}, LISTENER_MANAGER)

    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)

        assert "OPENAI_API_KEY" not in environment(cluster.get(upstream.server()))
        assert cluster.snapshot(upstream).uids == before.uids


def test_other_templates_replace_the_pods_and_another_api_key_does_not(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    log = MemoryLog()
    with ours(cluster, events=log) as operator:
        wait_adopted(operator, upstream.name)

    with ours(cluster, events=log, api_key="another") as rotated:  # every keyed digest of a literal value changes
        eventually(lambda: rotated.types(upstream.name).count("LgpObserved") == 2, "the digests are new")
        wait_adopted(rotated, upstream.name)
        assert cluster.snapshot(upstream) == before

    redis = CONFIG.templates.redis.replace("redis:6", "redis:7")
    changed = CONFIG.model_copy(update={"templates": Templates(redis=redis)})
    with ours(cluster, events=log, config=changed, api_key="another") as operator:
        log.mark_dirty(operator.stream(upstream.name))
        eventually(lambda: _image(cluster, upstream.redis()) == "redis:7", "the pods of Redis are replaced")
        wait_adopted(operator, upstream.name)
        after = cluster.snapshot(upstream)
        assert after.templates[upstream.name] == before.templates[upstream.name]
        assert after.uids == before.uids


def _image(cluster: Cluster, workload: Manifest) -> str:
    return str(cluster.get(workload)["spec"]["template"]["spec"]["containers"][0]["image"])


def test_an_adopted_object_that_is_deleted_is_created_again_whole(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)

        for manifest in (upstream.server(), upstream.postgres()):
            gone = cluster.get(manifest)["metadata"]["uid"]
            cluster.http.delete(f"{path_of(manifest)}/{manifest['metadata']['name']}").raise_for_status()
            key = operator.key(manifest["kind"], manifest["metadata"]["name"])
            eventually(lambda key=key, gone=gone: operator.uid(key) not in (None, gone), f"{key} is there again")  # type: ignore[misc]
        eventually(cluster.rolled_out, "everything runs again")
        operator.quiet(upstream.name)

        after = cluster.snapshot(upstream)
        assert after.claims == before.claims, "Postgres has the same volume"
        assert after.password == before.password
        assert environment(cluster.get(upstream.postgres()))["POSTGRES_USER"] == "langgraph"
        assert operator.condition(upstream.name, "Available")["status"] == "True"


def test_the_replicas_that_an_autoscaler_set_stay(cluster: Cluster) -> None:
    upstream = Upstream(namespace=cluster.namespace)
    bounds = {"enabled": True, "minReplicas": 1, "maxReplicas": 9, "queueMinReplicas": 1, "queueMaxReplicas": 9}
    cluster.upstream(upstream, autoscaling=bounds)
    cluster.merge(upstream.server(), {"spec": {"replicas": 4}}, "kube-controller-manager")
    cluster.merge(upstream.queue(), {"spec": {"replicas": 3}}, OPERATOR_MANAGER)
    eventually(cluster.rolled_out, "it is scaled")
    before = cluster.snapshot(upstream)

    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)
        assert cluster.snapshot(upstream) == before
        cluster.merge(upstream.lgp(), {"spec": {"serverSpec": {"image": NEXT}}}, LISTENER_MANAGER)
        eventually(lambda: operator.available(upstream.name, 2), "the next revision is rolled out")

        scaled = [cluster.get(one)["spec"]["replicas"] for one in (upstream.server(), upstream.queue())]
        assert scaled == [4, 3]


# --- other shapes


def test_a_name_that_is_longer_than_our_limit_stays(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster, deployment="customer-support-agent")
    assert len(upstream.name) > 49

    with ours(cluster) as operator:
        kept = wait_adopted(operator, upstream.name)

        assert kept.name_prefix == upstream.name
        assert cluster.snapshot(upstream) == before


def test_selectors_of_upstream_stay_and_our_pods_carry_their_labels(cluster: Cluster) -> None:
    upstream = Upstream(namespace=cluster.namespace)
    lgp = cluster.http.post(
        path_of(upstream.lgp()), params={"fieldManager": LISTENER_MANAGER}, json=upstream.lgp()
    ).json()
    create(cluster.http, upstream.password(), LISTENER_MANAGER)
    create(cluster.http, upstream.ingress(), OPERATOR_MANAGER)
    labels = {"app.kubernetes.io/managed-by": "lgp-operator", "lgp": upstream.id}
    server, service = upstream.server(lgp["metadata"]["uid"]), upstream.service(upstream.name, 8000)
    server["spec"]["selector"]["matchLabels"] = labels
    server["spec"]["template"]["metadata"]["labels"] |= {**labels, "route": upstream.id}
    service["spec"]["selector"] = {"route": upstream.id}
    for manifest in (upstream.postgres(), server, service):
        create(cluster.http, manifest, OPERATOR_MANAGER)
    eventually(cluster.rolled_out, "upstream's Agent Server runs")

    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)
        cluster.merge(upstream.lgp(), {"spec": {"serverSpec": {"image": NEXT}}}, LISTENER_MANAGER)
        eventually(lambda: operator.available(upstream.name, 2), "the next revision is rolled out")

        after = cluster.get(server)
        assert after["spec"]["selector"] == {"matchLabels": labels}
        assert after["spec"]["template"]["metadata"]["labels"].items() >= {**labels, "route": upstream.id}.items()
        assert cluster.get(service)["spec"]["selector"] == {"route": upstream.id}


def test_an_ambiguous_database_stops_everything_until_a_person_labels_one(cluster: Cluster) -> None:
    upstream = Upstream(namespace=cluster.namespace)
    install(cluster.http, upstream)
    other = upstream.postgres()
    other["metadata"]["name"] = other["spec"]["serviceName"] = "pg-of-support"
    cluster.http.delete(f"{path_of(other)}/{upstream.database}").raise_for_status()
    create(cluster.http, other, OPERATOR_MANAGER)
    eventually(cluster.rolled_out, "upstream's Agent Server runs")
    before = cluster.snapshot(upstream)

    with ours(cluster) as operator:
        eventually(lambda: "ActRefused" in operator.types(upstream.name), "the operator refuses")
        operator.quiet(upstream.name)
        reason = operator.condition(upstream.name, "Degraded")["message"]
        assert f"connect to {upstream.database}, which is no StatefulSet of the namespace" in reason
        assert f"kubectl -n {cluster.namespace} label statefulset NAME {LGP_LABEL}={upstream.name}" in reason
        assert cluster.snapshot(upstream) == before

        cluster.merge(other, {"metadata": {"labels": {LGP_LABEL: upstream.name}}})
        cluster.merge(upstream.lgp(), {"spec": {"annotations": {"looked": "again"}}})
        kept = wait_adopted(operator, upstream.name)

        assert kept.database is not None
        assert kept.database.name == "pg-of-support"
        assert cluster.snapshot(upstream).uids == before.uids


def test_a_database_without_its_password_is_left_alone(cluster: Cluster) -> None:
    upstream, _ = upstream_in(cluster)
    cluster.http.delete(f"{path_of(upstream.password())}/{upstream.secret}").raise_for_status()

    with ours(cluster) as operator:
        eventually(lambda: "ActRefused" in operator.types(upstream.name), "the operator refuses")
        operator.quiet(upstream.name)

        message = operator.condition(upstream.name, "Degraded")["message"]
        assert f"Secret {upstream.secret} has no key POSTGRES_PASSWORD" in message
        assert "ObjectsApplied" not in operator.types(upstream.name)


# --- two operators at once


class StillRunning:
    """Upstream's operator, still running: it writes its Deployment again and again."""

    def __init__(self, cluster: Cluster, manifest: Manifest) -> None:
        self._cluster, self._manifest = cluster, manifest
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> StillRunning:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._done.wait(0.3):
            replace(self._cluster.http, self._manifest, OPERATOR_MANAGER)


def test_an_operator_that_still_runs_is_named_and_its_changes_are_repaired_ever_more_rarely(cluster: Cluster) -> None:
    upstream, before = upstream_in(cluster)
    with ours(cluster) as operator:
        wait_adopted(operator, upstream.name)
        theirs = upstream.server(operator.lgp(upstream.name)["metadata"]["uid"])
        theirs["spec"]["replicas"] = 1

        with StillRunning(cluster, theirs):
            eventually(
                lambda: operator.condition(upstream.name, "Degraded").get("reason") == "FoughtOver",
                "the status reports the other writer",
            )
            message = operator.condition(upstream.name, "Degraded")["message"]
            assert f"Deployment {cluster.namespace}/{upstream.name} was repaired" in message
            assert f"last by {OPERATOR_MANAGER}" in message
        drifts = len(operator.drifts(upstream.name))

        eventually(
            lambda: cluster.get(upstream.server())["spec"]["replicas"] == 2,
            "the number of replicas is repaired when the other operator stops",
        )
        operator.quiet(upstream.name)
        assert len(operator.drifts(upstream.name)) <= drifts + 1
        eventually(lambda: operator.condition(upstream.name, "Degraded")["status"] == "False", "nothing is wrong")
        assert cluster.snapshot(upstream).templates == before.templates
