"""Validation of built-in kinds: refusals and their causes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.conformance.client import Api, causes, refused
from tests.conformance.objects import (
    Object,
    claim,
    claim_template,
    container,
    deployment,
    ingress,
    pod,
    service,
    stateful_set,
)

MERGE = "application/merge-patch+json"
MAIN = "spec.template.spec.containers[0]"


def with_main(**rest: Any) -> Object:
    return deployment("web", containers=[container(**rest)])


def without(obj: Object, *path: str) -> Object:
    obj = copy.deepcopy(obj)
    *parents, last = path
    node: Any = obj
    for key in parents:
        node = node[key]
    del node[last]
    return obj


MISTAKES: list[tuple[str, str, Object, str, str]] = [
    ("no selector", "deployments", without(deployment("web"), "spec", "selector"), "spec.selector", "Required"),
    (
        "selector without labels",
        "deployments",
        without(deployment("web"), "spec", "template", "metadata"),
        "spec.template.metadata.labels",
        "Invalid",
    ),
    (
        "no containers",
        "deployments",
        without(deployment("web"), "spec", "template", "spec", "containers"),
        "spec.template.spec.containers",
        "Required",
    ),
    ("no image", "deployments", with_main(image=None), f"{MAIN}.image", "Required"),
    ("no container name", "deployments", with_main(name=""), f"{MAIN}.name", "Required"),
    ("upper case container", "deployments", with_main(name="Main"), f"{MAIN}.name", "Invalid"),
    (
        "two containers of one name",
        "deployments",
        deployment("web", containers=[container(), container()]),
        "spec.template.spec.containers[1].name",
        "Duplicate",
    ),
    ("negative replicas", "deployments", deployment("web", replicas=-1), "spec.replicas", "Invalid"),
    (
        "unknown strategy",
        "deployments",
        deployment("web", strategy={"type": "Sometimes"}),
        "spec.strategy",
        "NotSupported",
    ),
    (
        "no progress allowed",
        "deployments",
        deployment("web", strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
        "spec.strategy.rollingUpdate.maxUnavailable",
        "Invalid",
    ),
    (
        "restart policy",
        "deployments",
        deployment("web", pod_spec={"restartPolicy": "Never"}),
        "spec.template.spec.restartPolicy",
        "NotSupported",
    ),
    (
        "port out of range",
        "deployments",
        with_main(ports=[{"containerPort": 70000}]),
        f"{MAIN}.ports[0].containerPort",
        "Invalid",
    ),
    (
        "protocol",
        "deployments",
        with_main(ports=[{"containerPort": 80, "protocol": "ICMP"}]),
        f"{MAIN}.ports[0].protocol",
        "NotSupported",
    ),
    (
        "pull policy",
        "deployments",
        with_main(imagePullPolicy="Maybe"),
        f"{MAIN}.imagePullPolicy",
        "NotSupported",
    ),
    ("env name", "deployments", with_main(env=[{"name": "A=B"}]), f"{MAIN}.env[0].name", "Invalid"),
    ("env name not ASCII", "deployments", with_main(env=[{"name": "Ä"}]), f"{MAIN}.env[0].name", "Invalid"),
    ("env without name", "deployments", with_main(env=[{"value": "x"}]), f"{MAIN}.env[0].name", "Required"),
    (
        "env of two sources",
        "deployments",
        with_main(env=[{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
        f"{MAIN}.env[0].valueFrom",
        "Invalid",
    ),
    (
        "mount of no volume",
        "deployments",
        with_main(volumeMounts=[{"name": "ghost", "mountPath": "/x"}]),
        f"{MAIN}.volumeMounts[0].name",
        "NotFound",
    ),
    (
        "request over limit",
        "deployments",
        with_main(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
        f"{MAIN}.resources.requests",
        "Invalid",
    ),
    (
        "two volumes of one name",
        "deployments",
        deployment("web", pod_spec={"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}),
        "spec.template.spec.volumes[1].name",
        "Duplicate",
    ),
    (
        "label value",
        "deployments",
        deployment("web", metadata={"labels": {"x": "not valid!"}}),
        "metadata.labels",
        "Invalid",
    ),
    (
        "label key",
        "deployments",
        deployment("web", metadata={"labels": {"not valid!": "x"}}),
        "metadata.labels",
        "Invalid",
    ),
    (
        "annotation key",
        "deployments",
        deployment("web", metadata={"annotations": {"not valid!": "x"}}),
        "metadata.annotations",
        "Invalid",
    ),
    ("service without ports", "services", service("web", ports=[]), "spec.ports", "Required"),
    ("service port", "services", service("web", ports=[{"port": 0}]), "spec.ports[0].port", "Invalid"),
    (
        "unnamed service ports",
        "services",
        service("web", ports=[{"port": 80}, {"port": 81}]),
        "spec.ports[0].name",
        "Required",
    ),
    ("service type", "services", service("web", type="Magic"), "spec.type", "NotSupported"),
    ("service name", "services", service("9web"), "metadata.name", "Invalid"),
    (
        "path type",
        "ingresses",
        ingress("web", pathType="Regex"),
        "spec.rules[0].http.paths[0].pathType",
        "NotSupported",
    ),
    (
        "relative path",
        "ingresses",
        ingress("web", path="relative"),
        "spec.rules[0].http.paths[0].path",
        "Invalid",
    ),
    ("claim without size", "persistentvolumeclaims", claim("c", resources={}), "spec.resources[storage]", "Required"),
    ("claim without mode", "persistentvolumeclaims", claim("c", accessModes=[]), "spec.accessModes", "Required"),
    ("pod without containers", "pods", without(pod("p"), "spec", "containers"), "spec.containers", "Required"),
    (
        "selector of another set",
        "statefulsets",
        stateful_set("web", selector={"matchLabels": {"app": "other"}}),
        "spec.template.metadata.labels",
        "Invalid",
    ),
]


@pytest.mark.parametrize(
    ("resource", "body", "field", "reason"),
    [mistake[1:] for mistake in MISTAKES],
    ids=[mistake[0] for mistake in MISTAKES],
)
def test_mistakes(api: Api, resource: str, body: Object, field: str, reason: str) -> None:
    status = refused(api.send("POST", resource, body=body), 422, "Invalid")
    assert (field, f"FieldValue{reason}") in causes(status), status["details"]
    kind, name = body["kind"], body["metadata"]["name"]
    assert status["message"].startswith(kind)
    assert f'"{name}" is invalid: ' in status["message"]
    assert status["details"]["name"] == name
    assert field in status["message"]


@pytest.mark.parametrize(
    "body",
    [
        deployment("web", replicas="three"),
        deployment("web", replicas={"number": 3}),
        with_main(env={"A": "x"}),
        with_main(resources={"limits": {"cpu": "lots"}}),
        with_main(ports=[{"containerPort": "http"}]),
        deployment("web", metadata={"labels": {"x": 1}}),
    ],
    ids=["text for number", "object for number", "map for list", "quantity", "text for port", "number for text"],
)
def test_wrong_types_are_bad_requests(api: Api, body: Object) -> None:
    refused(api.send("POST", "deployments", body=body), 400, "BadRequest")


@pytest.mark.parametrize(
    ("resource", "made", "patch", "field"),
    [
        (
            "deployments",
            deployment("web", replicas=0),
            {
                "spec": {
                    "selector": {"matchLabels": {"app": "web", "x": "1"}},
                    "template": {"metadata": {"labels": {"x": "1"}}},
                }
            },
            "spec.selector",
        ),
        ("services", service("web"), {"spec": {"clusterIP": "10.0.0.77"}}, "spec.clusterIP"),
        ("statefulsets", stateful_set("web", replicas=0), {"spec": {"serviceName": "other"}}, "spec"),
        (
            "statefulsets",
            stateful_set("web", replicas=0),
            {"spec": {"volumeClaimTemplates": [claim_template()]}},
            "spec",
        ),
        ("pods", pod("p"), {"spec": {"containers": [container(env=[{"name": "A"}])]}}, "spec"),
        ("persistentvolumeclaims", claim("c"), {"spec": {"accessModes": ["ReadOnlyMany"]}}, "spec"),
    ],
    ids=["deployment selector", "service address", "set service", "set claims", "pod spec", "claim spec"],
)
def test_immutable_fields(api: Api, resource: str, made: Object, patch: Object, field: str) -> None:
    name = api.create(resource, made)["metadata"]["name"]
    status = refused(api.send("PATCH", resource, name, patch, type=MERGE), 422, "Invalid")
    assert any(named.startswith(field) for named, _ in causes(status))


def test_the_image_of_a_pod_may_change(api: Api) -> None:
    api.create("pods", pod("p"))
    patch = {"spec": {"containers": [{"name": "main", "image": "other:1"}]}}
    patched = api.patch("pods", "p", patch, "strategic")
    assert patched["spec"]["containers"][0]["image"] == "other:1"


def test_environment_names_are_free(api: Api) -> None:
    names = ["1 A", "a.b-c", "#!", "A"]
    body = with_main(env=[{"name": name, "value": "x"} for name in names])
    made = api.create("deployments", body, dryRun="All")
    assert [item["name"] for item in made["spec"]["template"]["spec"]["containers"][0]["env"]] == names


def test_messages_join_several_mistakes(api: Api) -> None:
    body = deployment("web", replicas=-1, containers=[container(image=None)])
    status = refused(api.send("POST", "deployments", body=body), 422, "Invalid")
    assert status["message"].startswith('Deployment.apps "web" is invalid: [')
    assert len(status["details"]["causes"]) == 2


def test_the_wording_of_a_cause(api: Api) -> None:
    status = refused(api.send("POST", "deployments", body=deployment("web", replicas=-1)), 422, "Invalid")
    assert status["message"] == (
        'Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0'
    )
    assert status["details"] == {
        "name": "web",
        "group": "apps",
        "kind": "Deployment",
        "causes": [
            {
                "reason": "FieldValueInvalid",
                "message": "Invalid value: -1: must be greater than or equal to 0",
                "field": "spec.replicas",
            }
        ],
    }
