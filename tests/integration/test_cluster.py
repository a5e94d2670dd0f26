"""The cluster adapter against the embedded and the real API server: applies, conflicts, lists, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.errors import ClusterUnavailable, LockLost, ObjectConflict, ObjectRefused, SettingsError
from engine.kubernetes.cluster import APPLY_TRIES, KubernetesCluster
from engine.kubernetes.http import load_configuration
from engine.ports import Manifest, ObjectKey
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually

MANAGER = "test-manager"


@pytest.fixture
def cluster(api_server: ApiServer) -> Iterator[KubernetesCluster]:
    cluster = KubernetesCluster.load(api_server.kubeconfig, page_size=3)
    yield cluster
    cluster.close()


def config_map(namespace: str, name: str = "settings", **values: str) -> Manifest:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": {"set": "ours"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": values}


def key(manifest: Manifest) -> ObjectKey:
    metadata = manifest["metadata"]
    return ObjectKey(
        api_version=manifest["apiVersion"],
        kind=manifest["kind"],
        namespace=metadata["namespace"],
        name=metadata["name"],
    )


def test_an_apply_creates_then_changes_then_leaves_alone(cluster: KubernetesCluster, namespace: str) -> None:
    created = cluster.apply(config_map(namespace, colour="red"), manager=MANAGER)
    changed = cluster.apply(config_map(namespace, colour="blue"), manager=MANAGER)
    same = cluster.apply(config_map(namespace, colour="blue"), manager=MANAGER)

    assert (created.created, created.changed) == (True, True)
    assert (changed.created, changed.changed) == (False, True)
    assert (same.created, same.changed) == (False, False)
    assert same.manifest["data"] == {"colour": "blue"}


def test_an_apply_takes_ownership_of_fields_of_other_managers(cluster: KubernetesCluster, namespace: str) -> None:
    cluster.apply(config_map(namespace, colour="red"), manager="somebody-else")

    applied = cluster.apply(config_map(namespace, colour="blue"), manager=MANAGER)

    assert applied.manifest["data"] == {"colour": "blue"}


def test_before_write_runs_between_the_read_and_the_write(cluster: KubernetesCluster, namespace: str) -> None:
    def lost() -> None:
        raise LockLost("slept too long")

    with pytest.raises(LockLost):
        cluster.apply(config_map(namespace), manager=MANAGER, before_write=lost)

    assert cluster.get(key(config_map(namespace))) is None


def test_a_foreign_write_after_the_read_causes_a_fresh_read_and_check(
    cluster: KubernetesCluster, namespace: str
) -> None:
    cluster.apply(config_map(namespace, colour="red"), manager=MANAGER)
    proofs: list[object] = []

    def interfere_once() -> None:
        proofs.append(True)
        if len(proofs) == 1:
            cluster.patch(key(config_map(namespace)), {"data": {"size": "small"}})

    applied = cluster.apply(config_map(namespace, colour="blue"), manager=MANAGER, before_write=interfere_once)

    assert len(proofs) == 2
    assert applied.manifest["data"] == {"colour": "blue", "size": "small"}


def test_a_delayed_worker_cannot_recreate_a_deleted_object(cluster: KubernetesCluster, namespace: str) -> None:
    cluster.apply(config_map(namespace, colour="red"), manager=MANAGER)
    proofs: list[object] = []

    def deleted_by_a_newer_worker() -> None:
        if proofs:
            raise LockLost("the lock went to the newer worker")
        proofs.append(True)
        cluster.delete(key(config_map(namespace)))

    with pytest.raises(LockLost):
        cluster.apply(config_map(namespace, colour="blue"), manager=MANAGER, before_write=deleted_by_a_newer_worker)

    assert cluster.get(key(config_map(namespace))) is None


def test_a_recreated_object_of_the_same_name_is_a_conflict_too(cluster: KubernetesCluster, namespace: str) -> None:
    cluster.apply(config_map(namespace, colour="red"), manager=MANAGER)
    proofs: list[object] = []

    def recreated() -> None:
        proofs.append(True)
        if len(proofs) == 1:
            cluster.delete(key(config_map(namespace)))
            cluster.create(config_map(namespace, colour="green"))

    applied = cluster.apply(config_map(namespace, colour="blue"), manager=MANAGER, before_write=recreated)

    assert len(proofs) == 2
    assert applied.manifest["data"]["colour"] == "blue"


def test_endless_interference_is_returned_as_a_conflict(cluster: KubernetesCluster, namespace: str) -> None:
    cluster.apply(config_map(namespace), manager=MANAGER)
    proofs: list[object] = []

    def interfere() -> None:
        proofs.append(True)
        cluster.patch(key(config_map(namespace)), {"data": {"count": str(len(proofs))}})

    with pytest.raises(ObjectConflict, match="in each of 5 tries"):
        cluster.apply(config_map(namespace, colour="blue"), manager=MANAGER, before_write=interfere)

    assert len(proofs) == APPLY_TRIES


def test_losing_the_race_to_create_is_visible(cluster: KubernetesCluster, namespace: str) -> None:
    def another_writer_creates_it() -> None:
        cluster.create(config_map(namespace, colour="green"))

    applied = cluster.apply(
        config_map(namespace, colour="blue"), manager=MANAGER, before_write=another_writer_creates_it
    )

    assert (applied.created, applied.changed) == (False, True)
    assert applied.manifest["data"] == {"colour": "blue"}


def test_the_status_is_applied_without_touching_the_spec(cluster: KubernetesCluster, namespace: str) -> None:
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app", "namespace": namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "app"}},
            "template": {
                "metadata": {"labels": {"app": "app"}},
                "spec": {"containers": [{"name": "main", "image": "example.com/app"}]},
            },
        },
    }
    cluster.apply(deployment, manager=MANAGER)
    status = {key: deployment[key] for key in ("apiVersion", "kind", "metadata")} | {"status": {"collisionCount": 3}}

    applied = cluster.apply_status(status, manager=MANAGER)

    assert applied.manifest["status"]["collisionCount"] == 3
    assert applied.manifest["spec"]["replicas"] == 0


def test_a_status_without_an_object_is_refused(cluster: KubernetesCluster, namespace: str) -> None:
    status = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nothing", "namespace": namespace},
        "status": {"replicas": 1},
    }

    with pytest.raises(ObjectRefused, match="does not exist") as refused:
        cluster.apply_status(status, manager=MANAGER)

    assert refused.value.status == 404


def test_create_is_done_by_exactly_one(cluster: KubernetesCluster, namespace: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: cluster.create(config_map(namespace, who=str(n))), range(8)))

    assert sum(outcomes) == 1


def test_patch_and_delete_report_a_missing_object(cluster: KubernetesCluster, namespace: str) -> None:
    nothing = key(config_map(namespace, "nothing"))

    assert cluster.get(nothing) is None
    assert cluster.patch(nothing, {"data": {"x": "y"}}) is None
    assert cluster.delete(nothing) is False


def test_a_delete_keeps_an_object_of_the_same_name_and_another_uid(cluster: KubernetesCluster, namespace: str) -> None:
    uid = cluster.apply(config_map(namespace), manager=MANAGER).manifest["metadata"]["uid"]

    assert cluster.delete(key(config_map(namespace)), uid="00000000-0000-4000-8000-000000000000") is False
    assert cluster.delete(key(config_map(namespace)), uid=uid) is True


def test_a_list_holds_the_objects_of_all_pages(cluster: KubernetesCluster, namespace: str) -> None:
    names = {f"item-{n}" for n in range(8)}
    for name in sorted(names):
        cluster.create(config_map(namespace, name))
    other = config_map(namespace, "other")
    other["metadata"]["labels"] = {"set": "theirs"}
    cluster.create(other)

    found = cluster.list("v1", "ConfigMap", namespace, labels="set=ours")

    assert {item["metadata"]["name"] for item in found} == names
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("v1", "ConfigMap")}


def test_delete_all_deletes_what_matches(cluster: KubernetesCluster, namespace: str) -> None:
    for number in range(5):
        cluster.create(config_map(namespace, f"item-{number}"))
    other = config_map(namespace, "other")
    other["metadata"]["labels"] = {"set": "theirs"}
    cluster.create(other)

    assert cluster.delete_all("v1", "ConfigMap", namespace, labels="set=ours") == 5
    assert cluster.delete_all("v1", "ConfigMap", namespace, labels="set=ours") == 0
    assert cluster.get(key(other)) is not None
    with pytest.raises(ObjectRefused, match="label selector"):
        cluster.delete_all("v1", "ConfigMap", namespace, labels="")


def test_the_error_of_a_rejected_object_quotes_the_server(cluster: KubernetesCluster, namespace: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "app", "namespace": namespace},
        "spec": {"ports": [{"port": 99999, "protocol": "TCP"}]},
    }

    with pytest.raises(ObjectRefused, match=r"apply Service .*spec\.ports\[0\]\.port") as refused:
        cluster.apply(service, manager=MANAGER)

    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    assert not refused.value.retryable


def test_the_error_names_a_missing_namespace_and_the_fix(cluster: KubernetesCluster, namespace: str) -> None:
    with pytest.raises(ObjectRefused, match="create namespace 'nowhere-to-be'"):
        cluster.apply(config_map("nowhere-to-be"), manager=MANAGER)


@pytest.mark.parametrize("api_version", ["keda.sh/v1alpha1", "apps/v1", "nobody.example/v7"])
def test_a_kind_that_is_not_served(cluster: KubernetesCluster, namespace: str, api_version: str) -> None:
    metadata = {"name": "x", "namespace": namespace}
    unserved = {"apiVersion": api_version, "kind": "ScaledObject", "metadata": metadata}

    assert cluster.served(api_version, "ScaledObject") is False
    assert cluster.get(key(unserved)) is None
    assert cluster.delete(key(unserved)) is False
    assert cluster.delete_all(api_version, "ScaledObject", namespace, labels="a=b") == 0
    with pytest.raises(ObjectRefused, match="CustomResourceDefinition"):
        cluster.apply(unserved, manager=MANAGER)
    with pytest.raises(ObjectRefused, match="CustomResourceDefinition"):
        cluster.list(api_version, "ScaledObject", namespace)
    with pytest.raises(ObjectRefused, match="CustomResourceDefinition"):
        next(iter(cluster.watch(api_version, "ScaledObject", namespace)))


def test_an_unknown_kind_is_discovered(cluster: KubernetesCluster, namespace: str) -> None:
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "geese.farm.example"},
        "spec": {
            "group": "farm.example",
            "scope": "Namespaced",
            "names": {"kind": "Goose", "plural": "geese", "singular": "goose"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    },
                }
            ],
        },
    }
    cluster.apply(definition, manager=MANAGER)
    goose = {"apiVersion": "farm.example/v1", "kind": "Goose", "metadata": {"name": "nils", "namespace": namespace}}
    eventually(lambda: cluster.served("farm.example/v1", "Goose"))

    assert applied_when_served(cluster, goose)["metadata"]["name"] == "nils"
    assert [item["metadata"]["name"] for item in cluster.list("farm.example/v1", "Goose", namespace)] == ["nils"]


def test_permissions_are_asked_for(cluster: KubernetesCluster, namespace: str) -> None:
    assert cluster.allowed("create", "apps/v1", "Deployment", namespace)
    assert cluster.allowed("get", "v1", "Pod", namespace, subresource="log")


def test_a_wrong_token_is_a_temporary_failure_and_names_the_server(api_server: ApiServer, namespace: str) -> None:
    cluster = with_token(api_server, "not-the-token")

    with pytest.raises(ClusterUnavailable, match="does not accept the credentials") as denied:
        cluster.apply(config_map(namespace), manager=MANAGER)

    assert denied.value.status == 401
    assert denied.value.retryable
    assert "not-the-token" not in str(denied.value)


def test_an_object_of_the_wrong_shape_is_refused(cluster: KubernetesCluster, namespace: str) -> None:
    shapeless = config_map(namespace) | {"data": ["a", "list"]}

    with pytest.raises(ObjectRefused, match="apply ConfigMap"):
        cluster.apply(shapeless, manager=MANAGER)


def test_a_missing_permission_names_account_and_permission(real_api_server: ApiServer) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "powerless", "namespace": "default"}}
    KubernetesCluster.load(real_api_server.kubeconfig).apply(account, manager=MANAGER)
    with real_api_server.http() as http:
        path = "/api/v1/namespaces/default/serviceaccounts/powerless/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = http.post(path, json=body).raise_for_status().json()["status"]["token"]
    powerless = with_token(real_api_server, token)

    with pytest.raises(
        ObjectRefused, match=r'"system:serviceaccount:default:powerless" cannot get resource "configmaps".*Role'
    ) as refused:
        powerless.apply(config_map("default"), manager=MANAGER)

    assert refused.value.status == 403
    assert not powerless.allowed("create", "apps/v1", "Deployment", "default")


def test_the_error_of_a_missing_cluster_names_the_settings(tmp_path: Any) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text("apiVersion: v1\nkind: Config\n")

    with pytest.raises(SettingsError, match="AGENTPLANE_KUBECONFIG"):
        KubernetesCluster.load(broken)


def with_token(api_server: ApiServer, token: str) -> KubernetesCluster:
    configuration = load_configuration(api_server.kubeconfig)
    configuration.refresh_api_key_hook = None  # the hook would read the kubeconfig's token again
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    return KubernetesCluster(configuration)


def applied_when_served(cluster: KubernetesCluster, manifest: Manifest) -> Manifest:
    """Apply with retries: the API server lists a new kind a moment before it accepts objects of that kind."""
    applied: list[Manifest] = []

    def attempt() -> bool:
        try:
            applied.append(cluster.apply(manifest, manager=MANAGER).manifest)
        except ObjectRefused:
            return False
        return True

    eventually(attempt)
    return applied[0]
