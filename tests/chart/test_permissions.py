"""The whole life of a deployment with exactly the accounts of the chart, on a real API server with RBAC.

Listener, operator and watcher each send their requests with a token of their own ServiceAccount. The API server refuses
no request, and the requests use every right that the chart grants: a right that nothing uses must be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import httpx
import pytest

from engine.kubernetes.kinds import PLURALS, group_of
from engine.kubernetes.permissions import needed
from engine.names import lgp_name
from sandbox import envtest
from tests.chart.rendering import (
    NEEDED,
    RELEASE,
    Values,
    at,
    chart,
    helm,
    layered,
    objects,
    settings_of,
)
from tests.support.api_servers import ApiServer, running_real
from tests.support.eventually import eventually
from tests.support.granted import (
    COMPONENTS,
    DEPLOYMENT,
    Account,
    ControlPlane,
    DataPlane,
    Right,
    gateway_definition,
    granted,
)
from tests.support.namespaces import jobs_done, make_namespace
from tests.support.operator_stack import Kubelet, install_crd, lgp_manifest

NOT_IN_THIS_LIFE: dict[str, set[Right]] = {
    # Used for a deployment with a long name: another listener may have shortened the name differently.
    "listener": {("list", "apps.langchain.ai", "lgps")},
    # Used by an admission plugin that this API server does not run.
    "operator": {("update", "apps.langchain.ai", "lgps/finalizers")},
    "watcher": set(),
}
"""Rights that are granted but not used here; `test_rules_of_*.py` shows what stops without them."""

AUTOSCALING = {"horizontalpodautoscalers", "scaledobjects"}
"""Resources of Agent Servers with autoscaling. This file deploys none; `test_rules_of_operator.py` does."""

LEASING: set[Right] = {(verb, "coordination.k8s.io", "leases") for verb in ("get", "create", "patch")}
"""Rights on namespace leases; whichever process comes first uses them."""


def live(server: ApiServer, plane: DataPlane, control_plane: ControlPlane) -> None:
    """Create, update, fail, drift and delete a deployment."""
    namespace, name = control_plane.namespace, lgp_name("hello", DEPLOYMENT)
    revisions = [f"{n}0000000-0000-4000-8000-000000000000" for n in range(1, 4)]

    def reported(*report: str) -> Callable[[], bool]:
        return lambda: tuple(report) in control_plane.reports

    with server.http() as http:  # a password of another operator, to be adopted
        password = {"metadata": {"name": f"{name}-db"}, "stringData": {"POSTGRES_PASSWORD": "kept"}}
        http.post(f"/api/v1/namespaces/{namespace}/secrets", json=password).raise_for_status()
    control_plane.ask(revisions[0], "1", "sk-first")
    plane.poll()
    eventually(reported(revisions[0], "DEPLOYED"), f"revision 1 is deployed: {plane.accounts['operator'].refused}")
    control_plane.ask(revisions[1], "2", "sk-second")
    plane.poll()
    eventually(reported(revisions[1], "DEPLOYED"), "revision 2 is deployed")
    control_plane.ask(revisions[2], "missing", "sk-second")
    plane.poll()
    eventually(reported(revisions[2], "DEPLOY_FAILED"), "revision 3 fails")
    with server.http() as http:
        server_path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        eventually(lambda: '"registry.example/hello:2"' in http.get(server_path).text, "revision 2 is back")
        drift(http, plane, namespace, name)
        lgps = f"/apis/apps.langchain.ai/v1alpha1/namespaces/{namespace}/lgps"
        http.post(lgps, json=lgp_manifest(namespace, "by-hand")).raise_for_status()
        secret = f"/api/v1/namespaces/{namespace}/secrets/by-hand-db"
        eventually(lambda: http.get(secret).status_code == 200, "an LGP that was written by hand gets a password")
        lgp = f"{lgps}/{name}"
        assert control_plane.resource is not None
        control_plane.resource["status"] = "AWAITING_DELETE"
        plane.poll()
        eventually(lambda: "deletionTimestamp" in http.get(lgp).json()["metadata"], "the LGP is marked for deletion")
        # No garbage collector runs here to end the foreground deletion; the operator deletes the objects instead.
        merge = {"Content-Type": "application/merge-patch+json"}
        http.patch(lgp, json={"metadata": {"finalizers": None}}, headers=merge).raise_for_status()
        stream = f"lgp/{namespace}/{name}"
        eventually(
            lambda: "ObjectsPruned" in [r.type for r in plane.events.read(stream)],
            "the operator has pruned the leftovers",
        )
        eventually(lambda: reported(DEPLOYMENT, "DELETED")() or _deleted(plane), "the deletion is done")


def drift(http: httpx.Client, plane: DataPlane, namespace: str, name: str) -> None:
    """Delete objects by hand and edit the LGP; wait until the data plane has repaired each change."""
    routed = [f"gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}"]
    objects = [
        f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
        f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}-db",
        f"/api/v1/namespaces/{namespace}/services/{name}",
        f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}",
        *(f"/apis/{path}" for path in routed if plane.settings.gateway_enabled),
    ]
    uids = {path: http.get(path).raise_for_status().json()["metadata"]["uid"] for path in objects}
    for path, uid in uids.items():  # one by one, so that each object is restored because of its own drift
        http.delete(path).raise_for_status()
        eventually(partial(made_again, http, path, uid), f"{path} is back")
    lgp = f"/apis/apps.langchain.ai/v1alpha1/namespaces/{namespace}/lgps/{name}"
    merge = {"Content-Type": "application/merge-patch+json"}
    http.patch(lgp, json={"spec": {"serverSpec": {"image": "by-hand"}}}, headers=merge).raise_for_status()
    eventually(lambda: http.get(lgp).json()["spec"]["serverSpec"]["image"] != "by-hand", "the LGP is repaired")


def made_again(http: httpx.Client, path: str, uid: str) -> bool:
    return http.get(path).json()["metadata"].get("uid") not in (uid, None)


def _deleted(plane: DataPlane) -> bool:
    return any(record.type == "DeploymentDeleted" for record in plane.events.read(f"deployment/{DEPLOYMENT}"))


@pytest.fixture(scope="module")
def uncollected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server without a garbage collector, so that the operator always deletes the objects first."""
    controllers = [name for name in envtest.CONTROLLERS if name != "garbagecollector"]
    with running_real(tmp_path_factory.mktemp("uncollected"), controllers=controllers) as server, jobs_done(server):
        yield server


LAYOUTS: dict[str, Values] = {
    "one namespace behind an ingress": {},
    "two namespaces behind a gateway": {
        "ingress": {"enabled": False},
        "gateway": {"enabled": True, "name": "front", "namespace": "gateways", "hostname": "agents.example.com"},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_life_of_a_deployment_needs_what_is_granted_and_no_more(uncollected: ApiServer, layout: str) -> None:
    server, home = uncollected, make_namespace(uncollected)
    others = [make_namespace(server), make_namespace(server)] if "two" in layout else []
    install_crd(server)
    if others:
        with server.http() as http:
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            assert http.post(path, json=gateway_definition()).status_code in (201, 409)
            eventually(lambda: http.get("/apis/gateway.networking.k8s.io/v1/httproutes").status_code == 200, "served")
    values = layered(
        NEEDED,
        at("operator.createCRDs", False),
        at("operator.kedaEnabled", False),
        at("config.watchNamespaces", ",".join(others)),
        at("config.settings", {"lease_seconds": 5, "lock_seconds": 2}),  # short, so that leases are renewed in the test
        LAYOUTS[layout],
    )
    control_plane = ControlPlane(others[-1] if others else home)
    control_plane.resource_spec = {"min_scale": 2}  # two replicas, so that there are PodDisruptionBudgets
    with helm.Config(kubeconfig_path=server.kubeconfig, namespace=home) as config:
        release = config.install(chart(), RELEASE, values)
        try:
            with (
                DataPlane(server, release, home, control_plane) as plane,
                Kubelet(server, control_plane.namespace),
            ):
                live(server, plane, control_plane)
                eventually(lambda: plane.used() >= LEASING, "a lease is renewed")
        finally:
            config.uninstall(RELEASE)

    assert {name: account.refused for name, account in plane.accounts.items()} == {name: [] for name in COMPONENTS}
    used = {name: account.used for name, account in plane.accounts.items()}
    for name in COMPONENTS:
        rights = {right for right in granted(plane.manifests, name) if right[2] not in AUTOSCALING}
        assert used[name] <= rights
        assert rights - used[name] - LEASING == NOT_IN_THIS_LIFE[name], f"{name} has rights that it never used"


@pytest.mark.parametrize(
    "values",
    [
        {},
        at("operator.kedaEnabled", False),
        LAYOUTS["two namespaces behind a gateway"],
        {"ingress": {"enabled": False}, "istioGateway": {"enabled": True, "name": "f", "hostname": "a.example.com"}},
        {"ingress": {"enabled": False}, "config": {"enableLGPDeploymentHealthCheck": False}},
        at("operator.enabled", False),
        at("operator.podDisruptionBudgets", False),
        at("operator.managedResources.serviceAccounts", True),
        at("operator.managedResources.secretProviderClasses", True),
        {"listener": {"enabled": False}, "config": {"digestKey": "a-long-random-word"}},
    ],
)
def test_roles_are_what_the_processes_say_they_need(values: Values) -> None:
    found = objects(NEEDED, values)
    wanted = {
        process: {
            (
                verb,
                group_of(permission.api_version),
                "/".join(filter(None, (PLURALS[permission.kind], permission.subresource))),
            )
            for permission in permissions
            for verb in permission.verbs.split()
        }
        for process, permissions in needed(settings_of(found)).items()
    }

    assert {name: rights for name in COMPONENTS if (rights := granted(found, name))} == wanted
    assert {m["kind"] for m in found if m["apiVersion"].startswith("rbac")} == {"Role", "RoleBinding"}


def test_no_account_reads_secrets_of_other_namespaces(own_real: ApiServer) -> None:
    home, other = make_namespace(own_real), make_namespace(own_real)
    install_crd(own_real)
    with helm.Config(kubeconfig_path=own_real.kubeconfig, namespace=home) as config:
        config.install(chart(), RELEASE, layered(NEEDED, at("operator.createCRDs", False)))
        accounts = {name: Account(own_real, home, f"{RELEASE}-{name}") for name in (*COMPONENTS, "beat", "redis")}
        reading = {
            (name, where)
            for name, account in accounts.items()
            for where in (home, other, "kube-system", "")
            for verb in ("get", "list", "watch")
            if account.allowed(verb, "v1", "Secret", where)
        }
        config.uninstall(RELEASE)
    for account in accounts.values():
        account.close()

    assert reading == {(name, home) for name in COMPONENTS}
