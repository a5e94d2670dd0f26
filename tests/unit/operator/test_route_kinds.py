"""Routes whose kind the cluster does not serve: a condition with the fix, while everything else goes on."""

from __future__ import annotations

import pytest

from engine import names
from engine.operator.config import Gateway, OperatorConfig, SharedIngress
from tests.support.operator import NAME, NAMESPACE, OperatorWorld, lgp_manifest

GATEWAY = Gateway(enabled=True, name="front", namespace="gateways", hostname="agents.example.com")
CONFIGS = {
    "HTTPRoute": OperatorConfig(ingress=SharedIngress(enabled=False), gateway=GATEWAY),
    "VirtualService": OperatorConfig(ingress=SharedIngress(enabled=False), istio_gateway=GATEWAY),
}
FIXES = {"HTTPRoute": "install the Gateway API", "VirtualService": "install Istio"}


def without(kind: str) -> OperatorWorld:
    """An operator that makes routes of a kind which the API server does not know."""
    world = OperatorWorld(config=CONFIGS[kind])
    world.cluster.unserved.add(kind)
    world.cluster.put(lgp_manifest())
    world.run()
    return world


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_kind_of_route_that_is_not_served_is_reported_with_the_fix_and_holds_nothing_up(kind: str) -> None:
    world = without(kind)

    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "KindNotServed")
    assert FIXES[kind] in degraded["message"]
    assert f"{kind} {NAMESPACE}/{NAME}" in degraded["message"]
    assert world.condition("Available")["status"] == "True"
    assert world.state().last_reason.startswith("KindNotServed: ")
    told = [r.data for r in world.events.read(names.lgp_stream(NAMESPACE, NAME)) if r.type == "ObjectRejected"]
    assert [(data["key"]["kind"], data["reason"]) for data in told] == [(kind, "KindNotServed")]


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_is_tried_ever_more_rarely_until_the_kind_is_served(kind: str) -> None:
    world = without(kind)
    world.run(100)
    assert world.types().count("ObjectRejected") == 3, "after 30 and 60 seconds more"

    world.cluster.unserved.clear()
    world.run(150)
    assert world.condition("Degraded")["status"] == "False"
    assert world.find(kind)
