"""Which kinds the operator watches: every kind that it makes, and no other."""

from __future__ import annotations

import pytest

from engine.names import LGP_NAMESPACE_LABEL
from engine.operator.config import Gateway, OperatorConfig, SharedIngress
from engine.operator.manifests import OBJECT_KINDS
from engine.operator.observation.watches import external_watches, usual_watches
from engine.runtime.observation import LGPS, SECRETS
from tests.support.operator import OperatorWorld, lgp_manifest, shared_ingress

EVERYTHING = OperatorConfig(
    ingress=SharedIngress(enabled=False),
    managed_service_accounts=True,
    managed_secret_provider_classes=True,
    pod_disruption_budgets=True,
)
GATEWAY = Gateway(enabled=True, name="front")
CONFIGS = {
    "HTTPRoute, HPA": EVERYTHING.model_copy(update={"gateway": GATEWAY}),
    "VirtualService, KEDA": EVERYTHING.model_copy(update={"istio_gateway": GATEWAY, "keda_enabled": True}),
}
MANAGED = {
    "serviceAccount": {},
    "secretProviderClass": {"name": "vault", "provider": "azure", "parameters": {"keyvaultName": "vault"}},
}


def made_and_watched(config: OperatorConfig) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return the kinds that the operator made for an LGP that asks for everything, and the kinds that it watches."""
    world = OperatorWorld(config=config)
    world.cluster.put(shared_ingress())
    autoscaling = {"enabled": True, "minReplicas": 2, "maxReplicas": 4}
    world.cluster.put(lgp_manifest(autoscaling=autoscaling, managedResources=MANAGED))
    world.run()
    made = {(key.api_version, key.kind) for key in world.cluster.objects} & set(OBJECT_KINDS)
    watches = {*usual_watches(config), *(watch for watch, _ in world.loop.extra_watches)}
    return made, {(watch.api_version, watch.kind) for watch in watches}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_that_was_made_is_watched(config: OperatorConfig) -> None:
    made, watched = made_and_watched(config)

    assert made <= watched


def test_these_examples_make_every_kind() -> None:
    made = [made_and_watched(config)[0] for config in CONFIGS.values()]

    assert set().union(*made) == set(OBJECT_KINDS)


def test_kinds_that_the_operator_does_not_make_are_ignored() -> None:
    watched = {watch.kind for watch in usual_watches(OperatorConfig())}

    assert watched == {"LGP", "Secret", "Ingress", "Deployment", "StatefulSet", "ReplicaSet", "Service", "Pod"}


def test_lgps_and_secrets_are_watched_whatever_is_enabled() -> None:
    assert {LGPS, SECRETS} <= set(usual_watches(OperatorConfig(ingress=SharedIngress(enabled=False))))


def test_a_shared_ingress_in_another_namespace_is_watched_there() -> None:
    config = OperatorConfig(ingress=SharedIngress(namespace="edge"))

    assert {(watch.kind, watch.labels, namespace) for watch, namespace in external_watches(config)} == {
        ("Ingress", "", "edge"),
        ("Service", LGP_NAMESPACE_LABEL, "edge"),
    }
    assert "Ingress" not in {watch.kind for watch in usual_watches(config)}
