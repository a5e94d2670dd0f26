"""A second data plane on the cluster works in its own namespaces, and is refused in the namespace of the first."""

from __future__ import annotations

from tests.cluster import place
from tests.cluster.cluster import LGPS, Cluster, fetch
from tests.cluster.data_plane import DataPlane, Install, gateway
from tests.support.eventually import eventually


def test_a_second_data_plane_works_beside_the_first_and_is_refused_its_namespace(
    cluster: Cluster, plane: DataPlane, prepare: Install
) -> None:
    cluster.need("gateway.networking.k8s.io/v1", "a Gateway")
    stub, _ = place.images("STUB")
    plane.workspace.create("first", stub)
    plane.workspace.wait_until_deployed()
    own = f"{plane.namespace}-second"
    cluster.make_namespace(own, "baseline")
    second = prepare(gateway(), agents=(own, plane.agents))
    second.release += "-second"  # both releases make Roles in the contested namespace
    second.upgrade()

    second.workspace.create("beside", stub, own)
    eventually(
        lambda: second.workspace.revision("beside") == "DEPLOYED", "the deployment of the second data plane is deployed"
    )
    second.workspace.create("intruder", stub, plane.agents)

    assert fetch(second.workspace.url_of("beside"), "/ok").is_success
    assert fetch(plane.workspace.url_of("first"), "/ok").is_success
    problems = eventually(lambda: refusals(second), "the second data plane is refused")
    assert plane.agents in problems[0]
    assert plane.workspace.listener in problems[0] or plane.namespace in problems[0]
    owners = {lgp["metadata"]["labels"]["agentplane.dev/listener-id"] for lgp in cluster.listed(LGPS, plane.agents)}
    assert owners == {plane.workspace.listener}

    second.workspace.delete(*(one["id"] for one in second.workspace.deployments()))
    second.uninstall()
    cluster.gone(own)
    assert fetch(plane.workspace.url_of("first"), "/ok").is_success
    plane.workspace.delete(plane.workspace.deployment("first")["id"])
    eventually(lambda: not plane.workspace.deployments(), "the deployment of the first data plane is gone")


def refusals(plane: DataPlane) -> list[str]:
    """Return the problems in `agentplane status` about namespaces that another data plane holds."""
    return [problem for line in plane.status() for problem in line.get("problems", ()) if "held by" in problem]
