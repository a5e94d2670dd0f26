"""A shared Ingress of somebody else, in another namespace than the Agent Servers: what the chart grants and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from engine.adapters.kinds import PLURALS, group_of
from engine.permissions import needed, needed_at_ingress
from engine.ports import Manifest
from tests.chart.rendering import NEEDED, RELEASE, Refused, Values, at, layered, objects, settings_of

HOME = "platform"
ELSEWHERE: Values = layered(
    NEEDED,
    at("config.watchNamespaces", "agents"),
    {"ingress": {"create": False, "namespace": "edge"}},
)


def key(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["name"], manifest["metadata"]["namespace"]


def rules(found: list[Manifest], name: str, namespace: str) -> set[tuple[str, str, str]]:
    """Verb, API group and resource of everything that a Role allows."""
    (role,) = [m for m in found if m["kind"] == "Role" and key(m) == (name, namespace)]
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def wanted(permissions: list[Any]) -> set[tuple[str, str, str]]:
    return {
        (
            verb,
            group_of(p.api_version),
            "/".join(filter(None, (PLURALS.get(p.kind, f"{p.kind.lower()}s"), p.subresource))),
        )
        for p in permissions
        for verb in p.verbs.split()
    }


def test_operator_and_watcher_may_write_and_watch_beside_the_ingress_and_nowhere_else() -> None:
    found = objects(ELSEWHERE, namespace=HOME)
    settings = settings_of(found)

    assert settings.ingress_elsewhere == "edge"
    for process, permissions in needed_at_ingress(settings).items():
        name = f"{RELEASE}-{process}"
        assert rules(found, f"{name}-{HOME}", "edge") == wanted(permissions)
        assert rules(found, name, "agents") == wanted(needed(settings)[process])
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
    ids=["the Ingress is where the Agent Servers are", "no operator", "no Ingress"],
)
def test_otherwise_nothing_is_granted_beside_it(values: Values) -> None:
    off = at("config.enableLGPDeploymentHealthCheck", False)
    found = objects(ELSEWHERE, off, values, namespace=HOME)

    assert {m["metadata"]["namespace"] for m in found if m["kind"].startswith("Role")} <= {"agents", HOME}


def test_an_ingress_that_the_chart_makes_is_where_the_agent_servers_are() -> None:
    with pytest.raises(Refused) as refused:
        objects(ELSEWHERE, at("ingress.create", True), namespace=HOME)

    assert "ingress.namespace=edge with ingress.create=true" in str(refused.value)
    assert "set ingress.create=false to use an Ingress of yours in edge" in str(refused.value)


def test_more_than_one_watched_namespace_stays_refused() -> None:
    with pytest.raises(Refused, match="blue,green with ingress"):
        objects(ELSEWHERE, at("config.watchNamespaces", "blue,green"), namespace=HOME)
