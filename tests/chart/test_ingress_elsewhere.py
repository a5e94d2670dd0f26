"""A shared Ingress in another namespace than the Agent Servers, not made by the chart: what the chart grants."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from engine.kubernetes.kinds import PLURALS, group_of
from engine.kubernetes.permissions import needed, needed_at_ingress
from engine.names import lgp_name
from engine.ports import Manifest
from tests.chart.rendering import NEEDED, RELEASE, Refused, Values, at, chart, helm, layered, objects, settings_of
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.granted import DEPLOYMENT, Account, ControlPlane, DataPlane
from tests.support.namespaces import make_namespace
from tests.support.operator_stack import Kubelet, install_crd, shared_ingress

HOME = "platform"
ELSEWHERE: Values = layered(
    NEEDED,
    at("config.watchNamespaces", "agents"),
    {"ingress": {"create": False, "namespace": "edge"}},
)


def key(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["name"], manifest["metadata"]["namespace"]


def rules(found: list[Manifest], name: str, namespace: str) -> set[tuple[str, str, str]]:
    """Return verb, API group and resource of each right in a Role."""
    (role,) = [m for m in found if m["kind"] == "Role" and key(m) == (name, namespace)]
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def rights(permissions: list[Any]) -> set[tuple[str, str, str]]:
    return {
        (
            verb,
            group_of(p.api_version),
            "/".join(filter(None, (PLURALS.get(p.kind, f"{p.kind.lower()}s"), p.subresource))),
        )
        for p in permissions
        for verb in p.verbs.split()
    }


def test_operator_and_watcher_have_the_rights_they_need_in_the_namespace_of_the_ingress() -> None:
    found = objects(ELSEWHERE, namespace=HOME)
    settings = settings_of(found)

    assert settings.ingress_elsewhere == "edge"
    for process, permissions in needed_at_ingress(settings).items():
        name = f"{RELEASE}-{process}"
        assert rules(found, f"{name}-{HOME}", "edge") == rights(permissions)
        assert rules(found, name, "agents") == rights(needed(settings)[process])
        assert not any(resource == "ingresses" for _, _, resource in rules(found, name, "agents"))
        (binding,) = [m for m in found if m["kind"] == "RoleBinding" and key(m) == (f"{name}-{HOME}", "edge")]
        assert binding["roleRef"]["name"] == f"{name}-{HOME}"
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": HOME}]
    assert {m["metadata"]["namespace"] for m in found if m["kind"] == "Role"} >= {"agents", "edge"}
    assert not [m for m in found if m["kind"] == "Ingress"]
    assert not [
        m for m in found if m["kind"] == "Role" and m["metadata"]["namespace"] == "edge" and "secrets" in str(m)
    ]


@pytest.mark.parametrize(
    "values",
    [at("ingress.namespace", "agents"), at("operator.enabled", False), at("ingress.enabled", False)],
    ids=["Ingress in the namespace of the Agent Servers", "no operator", "no Ingress"],
)
def test_otherwise_nothing_is_granted_outside_the_watched_namespace(values: Values) -> None:
    off = at("config.enableLGPDeploymentHealthCheck", False)
    found = objects(ELSEWHERE, off, values, namespace=HOME)

    assert {m["metadata"]["namespace"] for m in found if m["kind"].startswith("Role")} <= {"agents", HOME}


def test_the_chart_refuses_to_make_the_ingress_in_another_namespace() -> None:
    with pytest.raises(Refused) as refused:
        objects(ELSEWHERE, at("ingress.create", True), namespace=HOME)

    assert "ingress.namespace=edge does not work with ingress.create=true" in str(refused.value)
    assert "set ingress.create=false to use your own Ingress in edge" in str(refused.value)


def test_more_than_one_watched_namespace_is_refused() -> None:
    with pytest.raises(Refused, match="blue,green does not work with ingress"):
        objects(ELSEWHERE, at("config.watchNamespaces", "blue,green"), namespace=HOME)


REVISION = "10000000-0000-4000-8000-000000000000"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, Account], set[str]]:
    """Records requests: namespace and account → `<verb> <resource>` of every request made so far."""
    found: dict[tuple[str, Account], set[str]] = {}
    note = Account._note

    def by_namespace(account: Account, method: str, path: str, *, created: bool = False) -> None:
        before, account.used = account.used, set()
        note(account, method, path, created=created)
        namespace = re.match(r".*/namespaces/([^/]+)/", path)
        if namespace is not None:
            used = {f"{verb} {resource}" for verb, _, resource in account.used}
            found.setdefault((namespace[1], account), set()).update(used)
        account.used |= before

    monkeypatch.setattr(Account, "_note", by_namespace)
    return found


def test_the_life_of_a_deployment_needs_what_is_granted_beside_the_ingress_and_no_more(
    own_real: ApiServer, asked: dict[tuple[str, Account], set[str]]
) -> None:
    home, agents, edge = (make_namespace(own_real) for _ in range(3))
    install_crd(own_real)
    values = layered(
        ELSEWHERE,
        at("operator.createCRDs", False),
        at("operator.kedaEnabled", False),
        at("config.watchNamespaces", agents),
        at("ingress.namespace", edge),
    )
    control_plane = ControlPlane(agents)
    with (
        own_real.http() as http,
        helm.Config(kubeconfig_path=own_real.kubeconfig, namespace=home) as config,
    ):
        ingresses = f"/apis/networking.k8s.io/v1/namespaces/{edge}/ingresses"
        http.post(ingresses, json=shared_ingress(edge)).raise_for_status()
        release = config.install(chart(), RELEASE, values)
        try:
            with DataPlane(own_real, release, home, control_plane) as plane, Kubelet(own_real, agents):
                come_and_go(http, plane, control_plane, edge)
        finally:
            config.uninstall(RELEASE)

    granted = needed_at_ingress(plane.settings)
    for process, account in plane.accounts.items():
        assert account.refused == []
        allowed = {f"{verb} {resource}" for verb, _, resource in rights(granted.get(process, []))}
        assert asked.get((edge, account), set()) == allowed, process


def come_and_go(http: httpx.Client, plane: DataPlane, control_plane: ControlPlane, edge: str) -> None:
    """Deploy; delete a Service in the namespace of the Ingress; delete the deployment."""
    name = lgp_name("hello", DEPLOYMENT)

    def services() -> list[str]:
        return [item["metadata"]["uid"] for item in http.get(f"/api/v1/namespaces/{edge}/services").json()["items"]]

    control_plane.ask(REVISION, "1", "sk-first")
    plane.poll()
    eventually(lambda: (REVISION, "DEPLOYED") in control_plane.reports, "the revision is deployed")
    before = services()
    (service,) = http.get(f"/api/v1/namespaces/{edge}/services").json()["items"]
    http.delete(f"/api/v1/namespaces/{edge}/services/{service['metadata']['name']}").raise_for_status()
    eventually(lambda: services() not in ([], before), "the Service in the namespace of the Ingress is back")

    assert control_plane.resource is not None
    control_plane.resource["status"] = "AWAITING_DELETE"
    plane.poll()
    lgp = f"/apis/apps.langchain.ai/v1alpha1/namespaces/{control_plane.namespace}/lgps/{name}"
    eventually(lambda: "deletionTimestamp" in http.get(lgp).json()["metadata"], "the LGP is marked for deletion")
    # The garbage collector discovers new kinds only every 30 s; the operator deletes the objects instead.
    http.patch(lgp, json={"metadata": {"finalizers": None}}, headers=MERGE).raise_for_status()
    eventually(lambda: services() == [], "nothing is left in the namespace of the Ingress")
    stream = f"lgp/{control_plane.namespace}/{name}"
    eventually(
        lambda: "ObjectsPruned" in [r.type for r in plane.events.read(stream)], "the operator has pruned the leftovers"
    )
