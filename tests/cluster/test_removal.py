"""Remove a data plane in every order: nothing hangs, and messages say what remains."""

from __future__ import annotations

import time

import pytest

from tests.chart.rendering import RELEASE, helm
from tests.cluster import place
from tests.cluster.cluster import LGPS, Cluster, fetch
from tests.cluster.data_plane import DataPlane, Install, gateway
from tests.support.eventually import eventually

DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lgps.apps.langchain.ai"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
SOON = 60.0
"""Seconds that a removal may take."""


@pytest.fixture
def serving(cluster: Cluster, prepare: Install) -> DataPlane:
    """A separate data plane with one Agent Server that has its own database and Redis."""
    cluster.need("gateway.networking.k8s.io/v1", "a Gateway")
    made = prepare(gateway())
    made.upgrade()
    made.workspace.create("agent", place.images("STUB")[0], env={})
    made.workspace.wait_until_deployed(120)
    return made


def releases(plane: DataPlane) -> list[str]:
    """Return the names of Helm's releases in the namespace of a data plane."""
    with plane.helm() as config:
        return [found["name"] for found in config.list(all_states=True)]


def test_helm_first_keeps_agent_servers_until_their_namespace_is_deleted(cluster: Cluster, serving: DataPlane) -> None:
    url = serving.workspace.url_of("agent")
    assert "keeps the Agent Servers, their LGPs and their Secrets" in serving.notes

    started = time.monotonic()
    serving.uninstall()

    assert time.monotonic() - started < SOON
    assert releases(serving) == []
    assert cluster.listed(LEASE, serving.agents) == [], "the namespace lease was released"
    assert fetch(url, "/ok").is_success
    assert cluster.gone(serving.agents, serving.namespace) < SOON


@place.slow
def test_the_namespaces_first(cluster: Cluster, serving: DataPlane) -> None:
    assert cluster.gone(serving.agents, serving.namespace) < SOON

    assert releases(serving) == []
    serving.uninstall()  # with --ignore-not-found: there is nothing to remove, and Helm does not hang
    assert cluster.get(DEFINITION) is not None, "the CustomResourceDefinition of LGPs belongs to no namespace"


@place.slow
def test_the_namespace_of_the_agents_first_then_helm(cluster: Cluster, serving: DataPlane) -> None:
    assert cluster.gone(serving.agents) < SOON
    problems = eventually(
        lambda: [f["detail"] for f in serving.findings("operator") if f["level"] == "fail"],
        "the doctor reports the missing namespace",
    )

    assert any(serving.agents in problem for problem in problems), problems
    started = time.monotonic()
    with pytest.raises(helm.HelmError, match=f'namespaces "{serving.agents}" not found'):
        serving.uninstall()  # the hook that releases the lease fails without the namespace; Helm reports that and ends
    assert time.monotonic() - started < SOON
    assert releases(serving) == []
    assert cluster.gone(serving.namespace) < SOON


@place.slow
def test_the_definition_of_lgps_first(cluster: Cluster, serving: DataPlane) -> None:
    lgp = serving.lgp_name("agent")

    cluster.http.delete(DEFINITION).raise_for_status()
    eventually(lambda: cluster.get(DEFINITION) is None, "the definition is gone", SOON)

    eventually(lambda: not servers(cluster, serving, lgp), "the Agent Server is deleted with its LGP", SOON)
    failures = [f for f in serving.findings("operator") if f["level"] == "fail"]
    assert any("does not serve LGP" in failure["detail"] for failure in failures), failures
    started = time.monotonic()
    serving.uninstall()
    assert time.monotonic() - started < SOON
    assert releases(serving) == []
    assert cluster.gone(serving.agents, serving.namespace) < SOON
    assert cluster.http.get(LGPS.format(ns=serving.agents)).status_code == 404
    assert RELEASE not in cluster.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")


def servers(cluster: Cluster, plane: DataPlane, lgp: str) -> list[str]:
    """Return the objects of an Agent Server that are left, except Secrets and PersistentVolumeClaims."""
    return [name for name in cluster.objects_of(plane.agents, lgp) if not name.startswith(("secrets", "persistent"))]
