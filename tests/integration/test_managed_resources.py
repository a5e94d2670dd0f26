"""Objects that users may also create by hand, on an embedded and a real API server.

These are the ServiceAccount and the SecretProviderClass of an LGP, and the PodDisruptionBudgets of its workloads. The
budgets let `kubectl drain` finish.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from engine.names import BUDGET, LGP_API_VERSION, SECRET_PROVIDER_CLASS, SERVICE_ACCOUNT
from engine.operator.config import OperatorConfig, SharedIngress
from engine.operator.state import Life
from engine.ports import Manifest, ObjectKey
from tests.support.api_servers import ApiServer
from tests.support.definitions import SECRET_PROVIDER_CLASSES
from tests.support.eventually import eventually
from tests.support.operator_stack import Kubelet, Operator, at_work, install_crd, lgp_manifest

NAME = "hello-0123456789abcdef0123456789abcdef"
CONFIG = OperatorConfig(
    ingress=SharedIngress(hostname="agents.example.com"),
    managed_service_accounts=True,
    managed_secret_provider_classes=True,
    pod_disruption_budgets=True,
)
QUIET: dict[str, Any] = {"database": {"enabled": False}, "redis": {"enabled": False}}
"""What is of no concern here is left out, so that tests take no longer than need be."""
MANAGED: dict[str, Any] = {
    "serviceAccount": {"annotations": {"client": "c-1"}, "automountServiceAccountToken": False},
    "secretProviderClass": {"name": "vault", "provider": "azure", "parameters": {"keyvaultName": "v"}},
}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="module")
def http(own_api_server: ApiServer) -> Iterator[httpx.Client]:
    with own_api_server.http() as client:
        yield client


def keys(operator: Operator) -> dict[str, ObjectKey]:
    return {
        "account": operator.key(SERVICE_ACCOUNT[1], f"{NAME}-sa", SERVICE_ACCOUNT[0]),
        "class": operator.key(SECRET_PROVIDER_CLASS[1], "vault", SECRET_PROVIDER_CLASS[0]),
        "budget": operator.key(BUDGET[1], NAME, BUDGET[0]),
        "budget of the queue": operator.key(BUDGET[1], f"{NAME}-queue", BUDGET[0]),
    }


def live(operator: Operator, what: str) -> Manifest:
    found = operator.cluster.get(keys(operator)[what])
    assert found is not None, what
    return found


def existing(operator: Operator) -> set[str]:
    return {what for what, key in keys(operator).items() if operator.cluster.get(key) is not None}


def written(operator: Operator, **spec: Any) -> Manifest:
    return lgp_manifest(operator.namespace, NAME, **{**QUIET, "serverSpec": {"replicas": 2}, **spec})


def test_objects_are_created_with_the_driver_repaired_and_deleted_with_the_field(
    own_api_server: ApiServer, http: httpx.Client, namespace: str
) -> None:
    with at_work(own_api_server, namespace, config=CONFIG) as operator:
        operator.put(written(operator, managedResources=MANAGED))
        eventually(
            lambda: operator.condition(NAME, "Degraded").get("reason") == "KindNotServed",
            "the condition names the missing kind",
        )
        assert "install the Secrets Store CSI driver" in operator.condition(NAME, "Degraded")["message"]
        eventually(
            lambda: existing(operator) == {"account", "budget", "budget of the queue"}, "the other objects are created"
        )

        http.post(DEFINITIONS, json=SECRET_PROVIDER_CLASSES).raise_for_status()
        eventually(
            lambda: "class" in existing(operator),
            "the SecretProviderClass is created as soon as its kind is served",
            seconds=120,
        )
        eventually(lambda: operator.condition(NAME, "Degraded")["status"] == "False", "nothing is wrong any more")
        eventually(lambda: operator.available(NAME), "the revision is rolled out")
        lgp = operator.lgp(NAME)["metadata"]["uid"]
        for what in keys(operator):
            assert [one["uid"] for one in live(operator, what)["metadata"]["ownerReferences"]] == [lgp]
        pod = operator.cluster.get(operator.key("Deployment", NAME))
        assert pod is not None
        assert pod["spec"]["template"]["spec"]["serviceAccountName"] == f"{NAME}-sa"
        operator.quiet(NAME)
        assert operator.drifts(NAME) == [("SecretProviderClass", "deleted")], (
            "the watcher must report the deletion as drift"
        )

        for what, key in keys(operator).items():
            before = operator.uid(key)
            operator.cluster.delete(key)
            eventually(partial(other_uid, operator, key, before), f"the {what} is back")
        changes: dict[str, Manifest] = {
            "account": {"automountServiceAccountToken": True},
            "class": {"spec": {"provider": "other", "parameters": {"keyvaultName": "theirs"}}},
            "budget": {"spec": {"maxUnavailable": 0}},
        }
        asked = {what: live(operator, what) for what in changes}
        for what, change in changes.items():
            operator.watching.patch(keys(operator)[what], change)
            eventually(partial(as_asked, operator, what, asked[what]), f"the {what} is as it was")

        operator.put(written(operator, serverSpec={"replicas": 1}))
        eventually(lambda: existing(operator) == set(), "everything goes with the fields and the replicas")
        operator.quiet(NAME)
        assert operator.condition(NAME, "Degraded")["status"] == "False"


def other_uid(operator: Operator, key: ObjectKey, before: str | None) -> bool:
    return operator.uid(key) not in (None, before)


def as_asked(operator: Operator, what: str, asked: Manifest) -> bool:
    return same(live(operator, what), asked)


def same(one: Manifest, other: Manifest) -> bool:
    return all(one.get(part) == other.get(part) for part in ("spec", "automountServiceAccountToken"))


def test_objects_of_others_stay_when_the_lgp_goes(
    own_api_server: ApiServer, http: httpx.Client, namespace: str
) -> None:
    with at_work(own_api_server, namespace, config=CONFIG) as operator:
        account = {"name": f"{NAME}-sa", "namespace": namespace, "annotations": {"whose": "mine"}}
        operator.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        mine = operator.uid(keys(operator)["account"])
        operator.put(written(operator, managedResources={"serviceAccount": {"annotations": {"client": "c-1"}}}))
        eventually(
            lambda: "does not belong" in operator.condition(NAME, "Degraded").get("message", ""),
            "the condition reports the foreign object",
        )
        eventually(lambda: existing(operator) >= {"account", "budget"}, "the budget is made")
        assert live(operator, "account")["metadata"]["annotations"] == {"whose": "mine"}

        http.delete(f"/apis/{LGP_API_VERSION}/namespaces/{namespace}/lgps/{NAME}").raise_for_status()
        eventually(lambda: operator.state(NAME).life is Life.PRUNED, "the LGP is gone")
        eventually(lambda: existing(operator) == {"account"}, "the operator's budget is deleted")
        assert operator.uid(keys(operator)["account"]) == mine


def test_objects_of_another_operator_are_adopted(own_api_server: ApiServer, namespace: str) -> None:
    """The adopted budget sets `minAvailable`; no budget may set both fields, so the operator removes `minAvailable`."""
    with at_work(own_api_server, namespace, config=CONFIG) as operator:
        operator.put(written(operator, serverSpec={"replicas": 1}))
        eventually(lambda: operator.available(NAME), "the Agent Server is available")
        owner = {
            "apiVersion": LGP_API_VERSION,
            "kind": "LGP",
            "name": NAME,
            "uid": operator.lgp(NAME)["metadata"]["uid"],
        }
        metadata = {"name": NAME, "namespace": namespace, "ownerReferences": [owner]}
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": NAME}}}
        operator.watching.create({"apiVersion": BUDGET[0], "kind": BUDGET[1], "metadata": metadata, "spec": spec})
        theirs = operator.uid(keys(operator)["budget"])

        operator.put(written(operator))
        eventually(lambda: "maxUnavailable" in live(operator, "budget")["spec"], "the budget has the operator's field")

        assert operator.uid(keys(operator)["budget"]) == theirs
        assert "minAvailable" not in live(operator, "budget")["spec"]
        operator.quiet(NAME)
        assert "DisruptionBudgets" not in str(operator.lgp(NAME)["status"]["conditions"])


def test_our_budget_is_deleted_while_a_foreign_budget_covers_the_same_pods(
    own_api_server: ApiServer, namespace: str
) -> None:
    with at_work(own_api_server, namespace, config=CONFIG) as operator:
        operator.put(written(operator, serverSpec={"replicas": 2, "queueEnabled": False}))
        eventually(lambda: existing(operator) == {"budget"}, "the operator's budget exists")
        operator.quiet(NAME)

        metadata = {"name": "by-hand", "namespace": namespace}
        spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": NAME}}}
        operator.put({"apiVersion": BUDGET[0], "kind": BUDGET[1], "metadata": metadata, "spec": spec})
        eventually(lambda: existing(operator) == set(), "the operator's budget is deleted")
        eventually(
            lambda: "by-hand" in operator.condition(NAME, "DisruptionBudgets").get("message", ""), "and it says why"
        )
        operator.quiet(NAME)

        operator.cluster.delete(operator.key(BUDGET[1], "by-hand", BUDGET[0]))
        eventually(lambda: existing(operator) == {"budget"}, "the operator's budget is created again")
        eventually(lambda: operator.condition(NAME, "DisruptionBudgets") == {}, "the condition is removed")


@pytest.mark.parametrize("own_api_server", ["real"], indirect=True, scope="module")
def test_a_node_can_be_drained_while_the_agent_server_serves(
    own_api_server: ApiServer, http: httpx.Client, namespace: str
) -> None:
    """The test evicts pods as `kubectl drain` does, and sets the readiness of pods itself."""
    install_crd(own_api_server)
    kubelet = Kubelet(own_api_server, namespace)
    with Operator(own_api_server.kubeconfig, namespace, config=CONFIG) as operator:

        def start() -> None:
            eventually(lambda: len(pods(http, namespace)) == 2, "two pods are made")
            for pod in pods(http, namespace).values():
                if "conditions" not in pod["status"]:
                    kubelet._report(pod)

        operator.put(written(operator, serverSpec={"replicas": 2, "queueEnabled": False}, ingress={"enabled": False}))
        start()
        eventually(lambda: live(operator, "budget").get("status", {}).get("disruptionsAllowed") == 1, "one may go")
        first, second = pods(http, namespace)

        assert evict(http, namespace, first) == 201
        assert evict(http, namespace, second) == 429, "no other pod serves yet"
        start()
        eventually(
            lambda: evict(http, namespace, second) in (201, 404),
            "the second pod may be evicted after the first is replaced",
        )
        start()
        eventually(lambda: live(operator, "budget")["status"]["currentHealthy"] == 2, "both pods are replaced")
        assert {first, second}.isdisjoint(pods(http, namespace))

        not_ready = [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        for pod in pods(http, namespace):
            patch(http, f"/api/v1/namespaces/{namespace}/pods/{pod}/status", {"status": {"conditions": not_ready}})
        eventually(lambda: live(operator, "budget")["status"]["currentHealthy"] == 0, "no pod is ready")
        assert [evict(http, namespace, pod) for pod in pods(http, namespace)] == [201, 201]
    kubelet._http.close()


def pods(http: httpx.Client, namespace: str) -> dict[str, Manifest]:
    found = http.get(f"/api/v1/namespaces/{namespace}/pods").json()["items"]
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def evict(http: httpx.Client, namespace: str, pod: str) -> int:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    return http.post(f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", json=body).status_code


def patch(http: httpx.Client, path: str, change: Manifest) -> None:
    merge = {"Content-Type": "application/merge-patch+json"}
    http.patch(path, json=change, headers=merge).raise_for_status()
