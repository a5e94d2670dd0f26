"""The exposure of an Agent Server: a path on the shared Ingress, an HTTPRoute, or a VirtualService.

The path is `<base path>/lgp/<LGP name>` (`engine/agent_path.py`), and no proxy strips it: the Agent Server serves under
its MOUNT_PREFIX (and `/ok` at the root, so probes need no prefix).

The shared Ingress belongs to another owner, usually the chart. `ingress_path` says which path an LGP needs there. How
the rules of the Ingress change is in `ingress_rules`; reading and writing it, in `engine/operator/shared_ingress.py`.

An Ingress leads to Services of its own namespace only. For an Ingress in another namespace than the LGP's, the operator
makes a Service of type ExternalName beside the Ingress, which stands for the Service beside the LGP. No owner reference
reaches across namespaces, so that Service is pruned by its labels. Gateways do not have that limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine import names
from engine.agent_path import agent_path
from engine.operator.config import Gateway, OperatorConfig, SharedIngress
from engine.operator.lgp import Lgp
from engine.operator.manifests import overlay
from engine.operator.manifests.environment import service_host
from engine.operator.manifests.naming import external_name, object_names
from engine.ports import Manifest, ObjectKey

FIXES = {
    "HTTPRoute": "install the Gateway API 1.0 or newer, or choose another exposure (ingress, istioGateway)",
    "VirtualService": "install Istio 1.22 or newer, or choose another exposure (ingress, gateway)",
}
"""Kind of route → fix when the API server does not serve the kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressPath:
    """The path of an Agent Server on the shared Ingress, and where it leads."""

    namespace: str
    """Namespace of the shared Ingress."""
    host: str
    """Host of the path's rule, without a port; empty for any host."""
    path: str
    service: str
    """Name of the Service that the path leads to."""
    port: int


def exposure(lgp: Lgp, config: OperatorConfig) -> SharedIngress | Gateway | None:
    """Return the exposure of `lgp`, None when it is not exposed."""
    return config.exposure if lgp.spec.ingress.enabled and route_problem(lgp, config) is None else None


def route_problem(lgp: Lgp, config: OperatorConfig) -> str | None:
    """Return why an LGP that asks to be exposed cannot be, for a condition; None when it can, or does not ask."""
    if not lgp.spec.ingress.enabled:
        return None
    if config.exposure is None:
        return (
            "spec.ingress.enabled is true, but none of ingress, gateway and istioGateway is enabled in the operator's "
            "values; enable one"
        )
    return None


def mount_prefix(lgp: Lgp, config: OperatorConfig) -> str | None:
    """Return the path under which clients outside the cluster reach `lgp`, None when it is not exposed."""
    exposed = exposure(lgp, config)
    return None if exposed is None else agent_path(exposed.base_path, lgp.name)


def endpoint(lgp: Lgp, config: OperatorConfig, port: int) -> str:
    """Return the URL of `lgp`: with the exposure's hostname where there is one, else with the Service's name."""
    prefix = mount_prefix(lgp, config) or ""
    exposed = exposure(lgp, config)
    if exposed is not None and exposed.hostname:
        return f"{'https' if exposed.tls_enabled else 'http'}://{exposed.hostname}{prefix}"
    return f"http://{service_host(object_names(lgp, config).server, lgp, config)}:{port}{prefix}"


def ingress_path(lgp: Lgp, config: OperatorConfig, port: int) -> IngressPath | None:
    """Return the path that `lgp` needs on the shared Ingress, None when it needs none."""
    exposed = exposure(lgp, config)
    if not isinstance(exposed, SharedIngress):
        return None
    namespace = exposed.namespace or lgp.namespace
    return IngressPath(
        namespace=namespace,
        host=_host(exposed.hostname),
        path=agent_path(exposed.base_path, lgp.name),
        service=object_names(lgp, config).server if namespace == lgp.namespace else external_name(lgp),
        port=port,
    )


def objects(lgp: Lgp, config: OperatorConfig, port: int) -> list[Manifest]:
    """Return the HTTPRoute, the VirtualService, or the Service beside an Ingress in another namespace; or nothing."""
    match exposure(lgp, config):
        case Gateway() as gateway:
            make = _http_route if gateway is config.gateway else _virtual_service
            return [make(lgp, config, gateway, port)]
        case SharedIngress(namespace=namespace) if namespace not in ("", lgp.namespace):
            return [_external_service(lgp, config, namespace, port)]
        case _:
            return []


def is_route_object(key: ObjectKey) -> bool:
    """Whether an object is an HTTPRoute or a VirtualService."""
    return key.kind in FIXES


def route_not_served(key: ObjectKey) -> str:
    """Return the message about a route whose kind the API server does not serve, with the fix."""
    return (
        f"{key} cannot be made, because this cluster does not serve {key.kind} {key.api_version}: {FIXES[key.kind]}; "
        "until then clients outside the cluster cannot reach the Agent Server"
    )


def is_of_disabled_exposure(key: ObjectKey, lgp_namespace: str, config: OperatorConfig) -> bool:
    """Whether an object belongs to an exposure (Ingress, HTTPRoute, VirtualService) that is no longer enabled.

    Our role may then no longer allow deleting the object.
    """
    enabled = config.exposure
    match key.kind:
        case "HTTPRoute":
            return enabled is not config.gateway
        case "VirtualService":
            return enabled is not config.istio_gateway
        case "IngressPath":
            return not isinstance(enabled, SharedIngress) or (enabled.namespace or lgp_namespace) != key.namespace
        case _:
            in_other_namespace = key.namespace != lgp_namespace
            return in_other_namespace and not (
                isinstance(enabled, SharedIngress) and enabled.namespace == key.namespace
            )


def _external_service(lgp: Lgp, config: OperatorConfig, namespace: str, port: int) -> Manifest:
    """Return the Service in the Ingress's `namespace` that stands for the Service beside `lgp`.

    Port and target port are the same number: Ingress controllers connect to the target port of an external name, and
    no proxy translates it.
    """
    labels = {names.LGP_NAMESPACE_LABEL: lgp.namespace}
    metadata = {**overlay.metadata(lgp, external_name(lgp), labels=labels), "namespace": namespace}
    del metadata["ownerReferences"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ExternalName",
            "externalName": service_host(object_names(lgp, config).server, lgp, config),
            "ports": [{"name": "api-server", "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }


def _http_route(lgp: Lgp, config: OperatorConfig, gateway: Gateway, port: int) -> Manifest:
    name = object_names(lgp, config).server
    host = _host(gateway.hostname)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": overlay.metadata(lgp, name),
        "spec": {
            "parentRefs": [
                {
                    "group": "gateway.networking.k8s.io",
                    "kind": "Gateway",
                    "namespace": gateway.namespace or lgp.namespace,
                    "name": gateway.name,
                }
            ],
            **({"hostnames": [host]} if host else {}),
            "rules": [
                {
                    "matches": [
                        {"path": {"type": "PathPrefix", "value": agent_path(gateway.base_path, lgp.name)}},
                    ],
                    "backendRefs": [{"kind": "Service", "name": name, "port": port, "weight": 1}],
                }
            ],
        },
    }


def _virtual_service(lgp: Lgp, config: OperatorConfig, gateway: Gateway, port: int) -> Manifest:
    name = object_names(lgp, config).server
    path = agent_path(gateway.base_path, lgp.name)
    destination = {"host": service_host(name, lgp, config), "port": {"number": port}}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": overlay.metadata(lgp, name),
        "spec": {
            "gateways": [f"{gateway.namespace or lgp.namespace}/{gateway.name}"],
            "hosts": [_host(gateway.hostname) or "*"],
            "http": [
                {
                    # Istio compares a prefix as text: the prefix `/lgp/a` alone would match `/lgp/ab` as well.
                    "match": [{"uri": {"exact": path}}, {"uri": {"prefix": f"{path}/"}}],
                    "route": [{"destination": destination}],
                }
            ],
        },
    }


def _host(hostname: str) -> str:
    """Return `hostname` without its port, which rules and routes do not allow."""
    return hostname.partition(":")[0]
