"""`networkPolicy.enabled`: the policy allows egress to all peers of the processes, and the processes know its name."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from engine.ports import Manifest
from tests.chart.rendering import (
    NEEDED,
    SENTINELS,
    Values,
    at,
    environment,
    layered,
    objects,
    own_secrets,
    pods,
    rendered,
)
from tests.chart.rendering import settings_of as settings_from

ON = at("networkPolicy.enabled", True)
USUAL = {443, 6443}
"""Ports that are always allowed: the API server, the hosted control plane, and a hostname with HTTPS."""


def egress(*values: Values) -> list[dict[str, Any]]:
    """Return the egress rules of the policy of the processes."""
    found: list[dict[str, Any]] = rendered(NEEDED, ON, *values)[("NetworkPolicy", "processes")]["spec"]["egress"]
    return found


def let_out(*values: Values) -> set[int]:
    """Return the ports that the processes may connect to at any address, without the ports of DNS."""
    ports = {port["port"] for rule in egress(*values) if "to" not in rule for port in rule["ports"]}
    return ports - {53, 5353}


WAYS: dict[str, tuple[Values, set[int]]] = {
    "defaults": ({}, set()),
    "a region": (at("config.region", "gcp-eu"), set()),
    "a self-hosted control plane": (at("config.hostBackendUrl", "http://langsmith.example:1984/api-host"), {1984}),
    "a control plane without a port": (at("config.hostBackendUrl", "http://langsmith.example/api-host"), {80}),
    "an IPv6 address": (at("config.hostBackendUrl", "https://[2001:db8::1]:8443"), {8443}),
    "a self-hosted LangSmith API": (at("config.smithBackendUrl", "https://langsmith.example:8443"), {8443}),
    "error reports": (at("config.sentryDsn", "https://key@sentry.example:9000/1"), {9000}),
    "a proxy": (at("proxy.httpsProxy", "http://user:word@proxy.example:3128"), {3128}),
    "a proxy without a port": (at("proxy.httpProxy", "http://proxy.example"), {80}),
    "a hostname with a port": (at("ingress.hostname", "agents.example.com:8443"), {8443}),
    "an address for health checks": (at("config.settings.health_check_address", "envoy.edge.svc:8088"), {8088}),
    "a collector in a variable of all processes": (
        at("commonEnv", [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector.example:4318"}]),
        {4318},
    ),
    "a collector without a scheme, in a variable of one process": (
        at("operator.deployment.extraEnv", [{"name": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "value": "collector:4317"}]),
        {4317},
    ),
    "a proxy in a variable": (
        at("watcher.deployment.extraEnv", [{"name": "ALL_PROXY", "value": "socks5://proxy.example"}]),
        {1080},
    ),
    "a host that is reached without the proxy": (
        layered(at("proxy.httpsProxy", "http://p:3128"), at("proxy.noProxy", "x.example:7")),
        {3128},
    ),
    "an external Redis": (
        {"redis": {"external": {"enabled": True, "connectionUrl": "rediss://:pa%2Fss@redis.example:6390/2"}}},
        {6390},
    ),
    "an external Redis in a Secret, on the default port": (
        {"redis": {"external": {"enabled": True, "existingSecretName": "redis"}}},
        {6379},
    ),
    "Sentinels, and the default port of the master": ({"redis": {"external": SENTINELS}}, {26380, 26379, 6379}),
    "URLs in Secrets, on other ports": (at("networkPolicy.extraPorts", [6380, 9000]), {6380, 9000}),
    "an API server on another port": (at("networkPolicy.apiServerPorts", [443, 6443, 16443]), {16443}),
}


@pytest.mark.parametrize(("values", "more"), WAYS.values(), ids=WAYS.keys())
def test_the_port_of_every_url_is_allowed(values: Values, more: set[int]) -> None:
    assert let_out(values) == USUAL | more


def test_a_value_that_is_no_url_allows_nothing() -> None:
    odd = ["http://", "http://[", "pass:1234", "http://u:p@ss:word@", "a:99999", "https://x:70000", "://x:1", ""]
    variables = [{"name": f"V{number}_URL", "value": value} for number, value in enumerate(odd)]
    by_reference = {"name": "DSN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}

    # `host:port` counts as an address only if the name of the variable says so: V2_URL does, V_PASSWORD does not
    assert let_out(at("commonEnv", [*variables, by_reference])) == USUAL | {1234}
    assert let_out(at("commonEnv", [{"name": "V_PASSWORD", "value": "pass:1234"}])) == USUAL


def gateway(*values: Values) -> list[dict[str, Any]]:
    """Return the rules to the gateway that answers the hostname inside the cluster: all peers but the chart's Redis."""
    return [rule for rule in egress(*values) if "to" in rule and "podSelector" not in rule["to"][0]]


def test_a_gateway_is_reached_at_the_port_of_its_pods() -> None:
    (rule,) = gateway()

    assert {"namespaceSelector": {}} in rule["to"]
    # A gateway on the host network has the address of its node, which is private in nearly every cluster.
    private = [ip_network(peer["ipBlock"]["cidr"]) for peer in rule["to"] if "ipBlock" in peer]
    assert all(network.is_private or network == ip_network("100.64.0.0/10") for network in private)
    for node in ("10.88.0.1", "172.18.0.2", "192.168.49.2", "100.64.7.1"):
        assert any(ip_address(node) in network for network in private), node
    # ingress-nginx, Traefik, Contour and Istio, Envoy Gateway
    assert {port["port"] for port in rule["ports"]} >= {80, 443, 8000, 8080, 8443, 10080, 10443}


def test_peers_and_ports_of_the_gateway_can_be_set() -> None:
    peer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}},
        "podSelector": {"matchLabels": {"app": "envoy"}},
    }
    values = {"networkPolicy": {"gatewayTo": [peer], "gatewayPorts": [10080]}}

    assert [rule for rule in egress(values) if "to" in rule][-1] == {
        "to": [peer],
        "ports": [{"port": 10080, "protocol": "TCP"}],
    }


def test_an_empty_list_of_peers_or_ports_allows_nothing() -> None:
    assert gateway(at("networkPolicy.gatewayTo", [])) == []
    assert gateway(at("networkPolicy.gatewayPorts", [])) == []


def test_dns_is_allowed_at_the_port_of_the_name_servers_pods_too() -> None:
    names = {(port["port"], port["protocol"]) for port in egress()[0]["ports"]}

    assert names == {(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")}


def test_the_policy_selects_every_process_and_denies_ingress() -> None:
    found = rendered(NEEDED, ON, {"flower": {"enabled": True, "existingSecretName": "flower"}})
    spec = found[("NetworkPolicy", "processes")]["spec"]

    components = {
        manifest["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for (kind, _), manifest in found.items()
        if kind == "Deployment"
    }
    assert components == set(spec["podSelector"]["matchExpressions"][0]["values"])
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    assert ("NetworkPolicy", "redis") in found


def policy_names(found: dict[tuple[str, str], Manifest]) -> dict[str, str | None]:
    """Return by workload the policy name in its environment."""
    secrets = own_secrets(found.values())
    return {name: environment(pod, secrets).get("AGENTPLANE_NETWORK_POLICY") for name, pod in pods(found)}


def test_every_process_knows_the_name_of_the_policy() -> None:
    assert policy_names(rendered(NEEDED, ON)) == {
        **dict.fromkeys(["beat", "listener", "operator", "watcher"], "langgraph-dataplane-processes"),
        "redis": None,
    }
    assert settings_from(objects(NEEDED, ON)).network_policy == "langgraph-dataplane-processes"
    assert set(policy_names(rendered(NEEDED)).values()) == {None}
