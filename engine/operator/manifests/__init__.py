"""The manifests of an LGP's objects, for server-side apply: plain JSON, computed from the LGP and the configuration.

Everything here is a pure function of an `Lgp` and an `OperatorConfig`: no clock, no I/O, no randomness. An LGP with a
redacted spec gives the same objects, except for the redacted values in them. Digests and replays use these; the API
server gets the unredacted objects.

    server                               Deployments of API servers and queue workers, Service
    database, redis                      Postgres and Redis of one Agent Server
    routes                               exposure: path on the shared Ingress, HTTPRoute, VirtualService
    ingress_rules                        the rules of the shared Ingress with and without a path
    autoscaling                          HorizontalPodAutoscaler or ScaledObject
    budgets                              PodDisruptionBudget
    managed                              `spec.managedResources`: ServiceAccount, SecretProviderClass
    templates (beside this package)      base objects, from YAML with variables
    overlay                              merges the LGP into a base object
    adopted                              what adopted objects keep
    environment                          environment variables of the Agent Server's containers
    canonical, quantity                  the API server's own spelling of the same value
    naming                               names of objects, and selectors that find them

The steps to add a field of the LGP are in `engine/operator/lgp/model.py`. To add a kind: a module with a function
`objects`, a line in `objects` below (the order is the order of application), and the kind in OBJECT_KINDS.
"""

from __future__ import annotations

from engine import names
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp
from engine.operator.manifests import autoscaling, budgets, database, managed, redis, routes, server
from engine.operator.manifests.budgets import covers, is_budget, other_budgets
from engine.operator.manifests.database import Credential, Generated, credentials
from engine.operator.manifests.environment import makes_postgres, makes_redis
from engine.operator.manifests.ingress_rules import is_shared_ingress, with_path, without_path
from engine.operator.manifests.managed import is_switched_off, may_be_namesake, why_refused
from engine.operator.manifests.managed import not_served as managed_not_served
from engine.operator.manifests.naming import (
    ObjectNames,
    away_selector,
    label_value,
    object_names,
    object_selector,
    service_account_name,
)
from engine.operator.manifests.routes import (
    IngressPath,
    is_of_disabled_exposure,
    is_route_object,
    route_not_served,
    route_problem,
)
from engine.ports import Manifest

__all__ = [
    "OBJECT_KINDS",
    "Credential",
    "Generated",
    "IngressPath",
    "ObjectNames",
    "away_selector",
    "covers",
    "credentials",
    "endpoint",
    "ingress_path",
    "is_budget",
    "is_of_disabled_exposure",
    "is_route_object",
    "is_shared_ingress",
    "is_switched_off",
    "label_value",
    "makes_postgres",
    "makes_redis",
    "managed_not_served",
    "may_be_namesake",
    "object_names",
    "object_selector",
    "objects",
    "other_budgets",
    "route_not_served",
    "route_problem",
    "service_account_name",
    "why_refused",
    "with_path",
    "without_path",
]

OBJECT_KINDS: tuple[tuple[str, str], ...] = (
    names.SERVICE_ACCOUNT,
    names.SECRET_PROVIDER_CLASS,
    ("v1", "Service"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "Deployment"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("networking.istio.io/v1", "VirtualService"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    names.BUDGET,
)
"""Every kind that `objects` may return; a cluster need not serve those that are not part of Kubernetes."""


def objects(lgp: Lgp, config: OperatorConfig) -> list[Manifest]:
    """Return every object to apply, in the order of application: an object comes after those that it needs.

    Raises SettingsError for a template that does not fit, InvalidResource for an LGP that does not fit the template.
    """
    queue = server.queue(lgp, config)
    service = server.service(lgp, config)
    workloads = [server.server(lgp, config), *([queue] if queue else [])]
    scalers = autoscaling.objects(lgp, config, queue)
    return [
        *managed.objects(lgp),
        *database.objects(lgp, config),
        *redis.objects(lgp, config),
        *workloads,
        service,
        *routes.objects(lgp, config, _port(service)),
        *scalers,
        *budgets.objects(lgp, config, workloads, scalers),
    ]


def ingress_path(lgp: Lgp, config: OperatorConfig) -> IngressPath | None:
    """Return the path that the LGP needs on the shared Ingress, None when it needs none. Raises SettingsError."""
    return routes.ingress_path(lgp, config, _port(server.service(lgp, config)))


def endpoint(lgp: Lgp, config: OperatorConfig) -> str:
    """Return the URL of the Agent Server, for the LGP's status: with the exposure's hostname where there is one, else
    with the Service's name. Raises SettingsError.
    """
    return routes.endpoint(lgp, config, _port(server.service(lgp, config)))


def _port(service: Manifest) -> int:
    port: int = service["spec"]["ports"][0]["port"]
    return port
