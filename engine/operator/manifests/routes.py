"""How an Agent Server is reached from outside: a path on the shared Ingress, an HTTPRoute, or a VirtualService.

The path is `<base path>/lgp/<LGP name>`, and nothing strips it on the way: the Agent Server serves under its
MOUNT_PREFIX (`/ok` at the root as well, so probes need no prefix).

The shared Ingress belongs to somebody else, usually the chart. We add and remove our own path and keep everything
else, order included. An Ingress leads to Services of its own namespace only. For one in another namespace than the
LGP's there is a Service of type ExternalName beside the Ingress, which stands for the one beside the LGP; no owner
reference reaches across namespaces, so it is pruned by its labels. Gateways do not have that limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine import names
from engine.operator.config import Gateway, OperatorConfig, SharedIngress
from engine.operator.lgp import Lgp
from engine.operator.manifests import overlay
from engine.operator.manifests.environment import service_host
from engine.operator.manifests.naming import external_name, object_names
from engine.ports import Manifest, ObjectKey

Json = Any


MENDS = {
    "HTTPRoute": "install the Gateway API 1.0 or newer, or choose another way in (ingress, istioGateway)",
    "VirtualService": "install Istio 1.22 or newer, or choose another way in (ingress, gateway)",
}
"""Kind of route → what to do where the API server does not serve it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressPath:
    """The place of an Agent Server on the shared Ingress."""

    namespace: str
    """Where the shared Ingress is."""
    host: str
    """Of its rule, without a port; empty for any."""
    path: str
    service: str
    port: int


def way_in(lgp: Lgp, config: OperatorConfig) -> SharedIngress | Gateway | None:
    """Return what leads to `lgp` from outside, None when nothing does."""
    return config.exposure if lgp.spec.ingress.enabled and route_problem(lgp, config) is None else None


def route_problem(lgp: Lgp, config: OperatorConfig) -> str | None:
    """Return why an LGP that asks for ingress cannot have one, for a condition; None when all is well."""
    if not lgp.spec.ingress.enabled:
        return None
    if config.exposure is None:
        return "ingress is asked for, but none of ingress, gateway and istioGateway is enabled; enable one"
    return None


def mount_prefix(lgp: Lgp, config: OperatorConfig) -> str | None:
    """Return the path under which `lgp` is reached from outside, None when it is not."""
    way = way_in(lgp, config)
    return None if way is None else names.route_path(way.base_path, lgp.name)


def endpoint(lgp: Lgp, config: OperatorConfig, port: int) -> str:
    """Return the URL of `lgp`: through the hostname where there is one, else inside the cluster."""
    prefix = mount_prefix(lgp, config) or ""
    way = way_in(lgp, config)
    if way is not None and way.hostname:
        return f"{'https' if way.tls_enabled else 'http'}://{way.hostname}{prefix}"
    return f"http://{service_host(object_names(lgp, config).server, lgp, config)}:{port}{prefix}"


def ingress_path(lgp: Lgp, config: OperatorConfig, port: int) -> IngressPath | None:
    """Return the path that the shared Ingress must carry, None when it must carry none."""
    way = way_in(lgp, config)
    if not isinstance(way, SharedIngress):
        return None
    home = way.namespace or lgp.namespace
    return IngressPath(
        namespace=home,
        host=_host(way.hostname),
        path=names.route_path(way.base_path, lgp.name),
        service=object_names(lgp, config).server if home == lgp.namespace else external_name(lgp),
        port=port,
    )


def objects(lgp: Lgp, config: OperatorConfig, port: int) -> list[Manifest]:
    """Return the HTTPRoute, the VirtualService, or the Service beside an Ingress in another namespace; or nothing."""
    match way_in(lgp, config):
        case Gateway() as way:
            make = _http_route if way is config.gateway else _virtual_service
            return [make(lgp, config, way, port)]
        case SharedIngress(namespace=home) if home not in ("", lgp.namespace):
            return [_external_service(lgp, config, home, port)]
        case _:
            return []


def is_route(key: ObjectKey) -> bool:
    """Whether an object is a route of a Gateway."""
    return key.kind in MENDS


def route_not_served(key: ObjectKey) -> str:
    """Return what to say of a route whose kind the API server does not serve."""
    return (
        f"{key} cannot be made, for this cluster does not serve {key.kind} {key.api_version}: {MENDS[key.kind]}; "
        "until then the Agent Server cannot be reached from outside"
    )


def is_of_former_way(key: ObjectKey, lgp_namespace: str, config: OperatorConfig) -> bool:
    """Whether `key` belongs to a way in that `config` has no more: our permissions may have gone with it."""
    way = config.exposure
    match key.kind:
        case "HTTPRoute":
            return way is not config.gateway
        case "VirtualService":
            return way is not config.istio_gateway
        case "IngressPath":
            return not isinstance(way, SharedIngress) or (way.namespace or lgp_namespace) != key.namespace
        case _:
            away = key.namespace != lgp_namespace
            return away and not (isinstance(way, SharedIngress) and way.namespace == key.namespace)


def is_shared_ingress(ingress: Manifest) -> bool:
    """Whether this Ingress is the one whose paths the operator keeps (by its annotation)."""
    annotations: Mapping[str, str] = ingress["metadata"].get("annotations") or {}
    return annotations.get(names.SHARED_INGRESS_ANNOTATION) == "true"


def with_path(ingress: Manifest, path: str, service: str, port: int, *, host: str = "") -> Manifest:
    """Return `ingress` with `path` leading to `service`; equal to `ingress` when it already does.

    The path goes to the end of the first rule for `host` (the rule without a host, when that is empty), or stays where
    it is there. Anywhere else it goes away if it leads to `service`: an LGP has one path, and another data plane may
    have an LGP of the same name under another host.
    """
    wanted = {
        "path": path,
        "pathType": "Prefix",
        "backend": {"service": {"name": service, "port": {"number": port}}},
    }
    rules = _rules(ingress)
    places = [index for index, rule in enumerate(rules) if rule.get("host", "") == host]
    taken = [index for index in places if any(one.get("path") == path for one in _paths(rules[index]))]
    place = next(iter((*taken, *places)), None)
    rules = [
        rule if index == place else _rule_without(rule, path, "" if index in places else service)
        for index, rule in enumerate(rules)
    ]
    if place is None:
        rules.append({**({"host": host} if host else {}), "http": {"paths": [wanted]}})
    else:
        rules[place] = _rule_with(rules[place], wanted)
    return {**ingress, "spec": {**(ingress.get("spec") or {}), "rules": rules}}


def without_path(ingress: Manifest, path: str, service: str = "") -> Manifest:
    """Return `ingress` without `path`, under whichever host; equal to `ingress` when it has none.

    With a `service`, only where it leads there. A rule that loses its last path stays, without paths, as it was before
    the first came: an Ingress must have a rule.
    """
    rules = [_rule_without(rule, path, service) for rule in _rules(ingress)]
    if rules == _rules(ingress):
        return ingress
    return {**ingress, "spec": {**ingress["spec"], "rules": rules}}


def _rules(ingress: Manifest) -> list[Json]:
    return list((ingress.get("spec") or {}).get("rules") or ())


def _paths(rule: Json) -> list[Json]:
    return list((rule.get("http") or {}).get("paths") or ())


def _rule_with(rule: Json, wanted: Json) -> Json:
    paths = _paths(rule)
    places = [index for index, one in enumerate(paths) if one.get("path") == wanted["path"]]
    if places:
        paths = [wanted if index == places[0] else one for index, one in enumerate(paths) if index not in places[1:]]
    else:
        paths.append(wanted)
    return {**rule, "http": {**(rule.get("http") or {}), "paths": paths}}


def _rule_without(rule: Json, path: str, service: str) -> Json:
    paths = _paths(rule)
    kept = [one for one in paths if one.get("path") != path or service not in ("", _service_of(one))]
    if kept == paths:
        return rule
    bare = {key: value for key, value in rule.items() if key != "http"}
    return {**rule, "http": {**rule["http"], "paths": kept}} if kept else bare


def _service_of(path: Json) -> str:
    service: Json = (path.get("backend") or {}).get("service") or {}
    return str(service.get("name", ""))


def _external_service(lgp: Lgp, config: OperatorConfig, home: str, port: int) -> Manifest:
    """Return the Service in namespace `home` that stands for the one beside `lgp`.

    Its port's target is the same number: that is where controllers connect to, since nothing translates ports on the
    way to an external name.
    """
    labels = {names.LGP_NAMESPACE_LABEL: lgp.namespace}
    metadata = {**overlay.metadata(lgp, external_name(lgp), labels=labels), "namespace": home}
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


def _http_route(lgp: Lgp, config: OperatorConfig, way: Gateway, port: int) -> Manifest:
    name = object_names(lgp, config).server
    host = _host(way.hostname)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": overlay.metadata(lgp, name),
        "spec": {
            "parentRefs": [
                {
                    "group": "gateway.networking.k8s.io",
                    "kind": "Gateway",
                    "namespace": way.namespace or lgp.namespace,
                    "name": way.name,
                }
            ],
            **({"hostnames": [host]} if host else {}),
            "rules": [
                {
                    "matches": [
                        {"path": {"type": "PathPrefix", "value": names.route_path(way.base_path, lgp.name)}},
                    ],
                    "backendRefs": [{"kind": "Service", "name": name, "port": port, "weight": 1}],
                }
            ],
        },
    }


def _virtual_service(lgp: Lgp, config: OperatorConfig, way: Gateway, port: int) -> Manifest:
    name = object_names(lgp, config).server
    path = names.route_path(way.base_path, lgp.name)
    destination = {"host": service_host(name, lgp, config), "port": {"number": port}}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": overlay.metadata(lgp, name),
        "spec": {
            "gateways": [f"{way.namespace or lgp.namespace}/{way.name}"],
            "hosts": [_host(way.hostname) or "*"],
            "http": [
                {
                    # Istio's prefix is one of text: `/lgp/a` alone would take `/lgp/ab` as well.
                    "match": [{"uri": {"exact": path}}, {"uri": {"prefix": f"{path}/"}}],
                    "route": [{"destination": destination}],
                }
            ],
        },
    }


def _host(hostname: str) -> str:
    """Return `hostname` without its port: rules and routes know hosts only."""
    return hostname.partition(":")[0]
