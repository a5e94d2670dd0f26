"""What holds for the manifests of every LGP."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from engine.operator import manifests
from engine.operator.config import Gateway, OperatorConfig, SharedIngress
from engine.operator.lgp import PUBLIC_VARIABLES, Lgp, parse_lgp, redact_spec
from engine.ports import Manifest, ObjectKey

SECRET = "s3cr3t"

words = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
secret_values = st.builds(lambda word: f"{SECRET}-{word}", words)
variable_names = st.one_of(
    st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True),
    st.sampled_from(
        [
            "POSTGRES_URI",
            "POSTGRES_URI_CUSTOM",
            "REDIS_URI",
            "REDIS_URI_CUSTOM",
            "DATABASE_URI",
            "POSTGRES_PASSWORD",
            "PORT",
            "N_JOBS_PER_WORKER",
        ]
    ),
).filter(lambda name: name not in PUBLIC_VARIABLES)
variables = st.one_of(
    st.fixed_dictionaries({"name": variable_names, "value": st.one_of(secret_values, st.just(""))}),
    st.fixed_dictionaries(
        {"name": variable_names, "valueFrom": st.just({"secretKeyRef": {"name": "a-secret", "key": "k"}})}
    ),
)
texts = st.dictionaries(st.one_of(words, st.just("app")), words, max_size=3)
amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "ephemeral-storage"]), st.sampled_from(["1", "500m", "2Gi", "1.5Gi", "1024Mi"])
)
resources = st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts})
containers = st.lists(
    st.fixed_dictionaries(
        {"name": words, "image": words},
        optional={
            "env": st.lists(variables, max_size=3),
            "args": st.lists(secret_values, max_size=2),
            "command": st.lists(secret_values, max_size=2),
            "resources": resources,
            "readinessProbe": st.builds(lambda value: {"exec": {"command": [value]}}, secret_values),
        },
    ),
    max_size=2,
    unique_by=lambda it: it["name"],
)
required: dict[str, st.SearchStrategy[Any]] = {"image": st.just("registry.example/app@sha256:1")}
servers = st.fixed_dictionaries(
    required,
    optional={
        "env": st.lists(variables, max_size=6),
        "imagePullSecrets": st.lists(st.fixed_dictionaries({"name": words}), max_size=2),
        "initContainers": containers.map(lambda found: [{**one, "name": f"init-{one['name']}"} for one in found]),
        "sidecars": containers,
        "labels": texts,
        "annotations": texts,
        "numJobsPerWorker": st.integers(0, 20),
        "queueEnabled": st.booleans(),
        "queueResources": resources,
        "replicas": st.integers(0, 5),
        "resources": resources,
        "serviceAccountName": words,
        "volumes": st.lists(
            st.fixed_dictionaries({"name": words, "emptyDir": st.just({"sizeLimit": "2048Mi"})}),
            max_size=2,
            unique_by=lambda it: str(it["name"]),
        ),
    },
)
specs = st.fixed_dictionaries(
    {"serverSpec": servers},
    optional={
        "database": st.fixed_dictionaries(
            {"enabled": st.booleans()},
            optional={
                "resources": resources,
                "secretName": words,
                "maxConnections": st.integers(1, 500),
                "storageSizeGi": st.integers(1, 4096),
            },
        ),
        "redis": st.fixed_dictionaries({"enabled": st.booleans()}, optional={"resources": resources}),
        "ingress": st.fixed_dictionaries({"enabled": st.booleans()}),
        "autoscaling": st.fixed_dictionaries(
            {"enabled": st.booleans()},
            optional={
                "autoscalerType": st.sampled_from(["HPA", "KEDA"]),
                "minReplicas": st.integers(0, 5),
                "maxReplicas": st.integers(0, 5),
                "queueMinReplicas": st.integers(0, 5),
            },
        ),
        "labels": texts,
        "annotations": texts,
        "nodeSelector": texts,
        "tolerations": st.lists(st.fixed_dictionaries({"key": words, "operator": st.just("Exists")}), max_size=2),
    },
)
lgp_names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,80}[a-z0-9])?", fullmatch=True).filter(lambda name: ".." not in name)
GATEWAY = Gateway(enabled=True, name="g", namespace="edge", hostname="agents.example.com")
configs = st.sampled_from(
    [
        OperatorConfig(ingress=SharedIngress(hostname="agents.example.com")),
        OperatorConfig(ingress=SharedIngress(namespace="elsewhere"), keda_enabled=True),
        OperatorConfig(ingress=SharedIngress(enabled=False), gateway=GATEWAY),
        OperatorConfig(ingress=SharedIngress(enabled=False), istio_gateway=GATEWAY, keda_enabled=True),
    ]
)
every = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:12]


def parsed(spec: dict[str, Any], name: str = "agent") -> Lgp:
    return parse_lgp("team", name, "uid-1", spec)


def of_kind(found: list[Manifest], *kinds: str) -> Iterator[Manifest]:
    return (manifest for manifest in found if manifest["kind"] in kinds)


@every
@given(specs, configs, lgp_names)
def test_manifests_are_deterministic_json(spec: dict[str, Any], config: OperatorConfig, name: str) -> None:
    before = json.dumps(spec)
    found = manifests.objects(parsed(spec, name), config)
    again = manifests.objects(parsed(json.loads(before), name), config)
    assert json.dumps(found) == json.dumps(again)
    assert json.loads(json.dumps(found)) == found
    assert json.dumps(spec) == before


@every
@given(specs, configs, lgp_names)
def test_no_object_appears_twice_and_names_fit(spec: dict[str, Any], config: OperatorConfig, name: str) -> None:
    found = manifests.objects(parsed(spec, name), config)
    keys = [str(ObjectKey.of(manifest)) for manifest in found]
    assert len(keys) == len(set(keys))
    assert {(manifest["apiVersion"], manifest["kind"]) for manifest in found} <= set(manifests.OBJECT_KINDS)
    for manifest in found:
        longest = 52 if manifest["kind"] == "StatefulSet" else 63
        assert re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{longest - 2}}}[a-z0-9])?", manifest["metadata"]["name"])
        for value in manifest["metadata"]["labels"].values():
            assert re.fullmatch(r"[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?", value)


@every
@given(specs, configs)
def test_selectors_match_their_pods_and_no_others(spec: dict[str, Any], config: OperatorConfig) -> None:
    found = manifests.objects(parsed(spec), config)
    workloads = list(of_kind(found, "Deployment", "StatefulSet"))
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"].items() for one in workloads}
    for one in workloads:
        selector = one["spec"]["selector"]["matchLabels"].items()
        assert [name for name, found_labels in labels.items() if selector <= found_labels] == [one["metadata"]["name"]]
    for service in of_kind(found, "Service"):
        if service["spec"].get("type") == "ExternalName":
            continue
        selector = service["spec"]["selector"].items()
        assert [name for name, got in labels.items() if selector <= got] == [service["metadata"]["name"]]


@every
@given(specs, configs)
def test_a_variable_appears_once_in_a_container(spec: dict[str, Any], config: OperatorConfig) -> None:
    for manifest in of_kind(manifests.objects(parsed(spec), config), "Deployment", "StatefulSet"):
        pod = manifest["spec"]["template"]["spec"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            names = [entry["name"] for entry in container.get("env", ())]
            assert len(names) == len(set(names))


@every
@given(specs, configs)
def test_a_redacted_lgp_gives_the_same_manifests_without_its_secrets(
    spec: dict[str, Any], config: OperatorConfig
) -> None:
    redacted = redact_spec(spec, digest)
    assert SECRET not in json.dumps(redacted)
    live, logged = parsed(spec), parsed(redacted)
    assert manifests.credentials(live, config) == manifests.credentials(logged, config)
    assert manifests.ingress_path(live, config) == manifests.ingress_path(logged, config)
    assert manifests.endpoint(live, config) == manifests.endpoint(logged, config)
    found = manifests.objects(logged, config)
    assert SECRET not in json.dumps(found)
    for now, then in zip(leaves(manifests.objects(live, config)), leaves(found), strict=True):
        assert now == then or (SECRET in now and then == f"redacted:{digest(now.encode())}")


def leaves(node: Any) -> list[Any]:
    """Every leaf and every key, in order."""
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in (key, *leaves(value))]
    if isinstance(node, list):
        return [leaf for value in node for leaf in leaves(value)]
    return [node]
