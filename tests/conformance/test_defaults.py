"""Defaults of the built-in kinds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conformance.client import Api
from tests.conformance.objects import Object, claim, container, deployment, ingress, pod, service, stateful_set

PROBE = {"httpGet": {"path": "/ok", "port": 8000}}


def at(obj: Any, path: str) -> Any:
    for key in path.split("."):
        obj = obj[int(key)] if isinstance(obj, list) else obj[key]
    return obj


POD = "spec.template.spec"
CASES: list[tuple[str, Object, dict[str, Any]]] = [
    (
        "deployments",
        deployment("web"),
        {
            "spec.replicas": 1,
            "spec.revisionHistoryLimit": 10,
            "spec.progressDeadlineSeconds": 600,
            "spec.strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            },
            f"{POD}.restartPolicy": "Always",
            f"{POD}.terminationGracePeriodSeconds": 30,
            f"{POD}.dnsPolicy": "ClusterFirst",
            f"{POD}.schedulerName": "default-scheduler",
            f"{POD}.securityContext": {},
            f"{POD}.containers.0.imagePullPolicy": "IfNotPresent",
            f"{POD}.containers.0.resources": {},
            f"{POD}.containers.0.terminationMessagePath": "/dev/termination-log",
            f"{POD}.containers.0.terminationMessagePolicy": "File",
        },
    ),
    (
        "deployments",
        deployment("web", containers=[container(ports=[{"containerPort": 80}], livenessProbe=PROBE)]),
        {
            f"{POD}.containers.0.ports": [{"containerPort": 80, "protocol": "TCP"}],
            f"{POD}.containers.0.livenessProbe": {
                "httpGet": {"path": "/ok", "port": 8000, "scheme": "HTTP"},
                "timeoutSeconds": 1,
                "periodSeconds": 10,
                "successThreshold": 1,
                "failureThreshold": 3,
            },
        },
    ),
    (
        "deployments",
        deployment("web", containers=[container(image="app")]),
        {f"{POD}.containers.0.imagePullPolicy": "Always"},
    ),
    (
        "deployments",
        deployment("web", containers=[container(image="app:latest")]),
        {f"{POD}.containers.0.imagePullPolicy": "Always"},
    ),
    (
        "deployments",
        deployment("web", pod_spec={"volumes": [{"name": "s", "secret": {"secretName": "x"}}, {"name": "e"}]}),
        {
            f"{POD}.volumes": [
                {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                {"name": "e", "emptyDir": {}},
            ]
        },
    ),
    (
        "deployments",
        deployment("web", containers=[container(resources={"limits": {"cpu": "1", "memory": "1Gi"}})]),
        {f"{POD}.containers.0.resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
    ),
    (
        "statefulsets",
        stateful_set("web"),
        {
            "spec.replicas": 1,
            "spec.podManagementPolicy": "OrderedReady",
            "spec.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "spec.revisionHistoryLimit": 10,
        },
    ),
    (
        "services",
        service("web"),
        {
            "spec.type": "ClusterIP",
            "spec.sessionAffinity": "None",
            "spec.ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        },
    ),
    ("services", service("web", clusterIP="None"), {"spec.clusterIP": "None"}),
    ("persistentvolumeclaims", claim("c"), {"spec.volumeMode": "Filesystem", "status.phase": "Pending"}),
    ("ingresses", ingress("web"), {"spec.rules.0.http.paths.0.pathType": "Prefix", "status": {"loadBalancer": {}}}),
    (
        "pods",
        pod("p", containers=[container(resources={"limits": {"cpu": "1"}})]),
        {
            "spec.containers.0.resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "status.phase": "Pending",
            "status.qosClass": "Burstable",
        },
    ),
]


@pytest.mark.parametrize(("resource", "body", "expected"), CASES)
def test_defaults(api: Api, resource: str, body: Object, expected: dict[str, Any]) -> None:
    made = api.create(resource, body)
    assert {path: at(made, path) for path in expected} == expected


def test_services_get_an_address(api: Api) -> None:
    addresses = [api.create("services", service(name))["spec"]["clusterIP"] for name in ("a", "b")]
    assert all(re.fullmatch(r"10\.\d+\.\d+\.\d+", address) for address in addresses)
    assert addresses[0] != addresses[1]


def test_services_keep_their_address(api: Api) -> None:
    made = api.create("services", service("a"))
    patched = api.patch("services", "a", {"spec": {"ports": [{"port": 81}]}})
    assert patched["spec"]["clusterIP"] == made["spec"]["clusterIP"]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("1500m", "1500m"),
        ("1000m", "1"),
        ("0.5", "500m"),
        ("2048Mi", "2Gi"),
        ("1.5Gi", "1536Mi"),
        ("1500Mi", "1500Mi"),
        ("1000M", "1G"),
        ("1e3", "1e3"),
        ("0", "0"),
    ],
)
def test_quantities_take_their_shortest_form(api: Api, written: str, stored: str) -> None:
    main = container(resources={"limits": {"memory": written}})
    made = api.create("deployments", deployment("web", replicas=0, containers=[main]))
    assert made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"memory": stored}
