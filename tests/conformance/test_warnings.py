"""Warnings about accepted bodies (Warning headers), and the treatment of unknown and repeated fields."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conformance.client import PATCHES, Api, causes, install_definition, refused, succeeded
from tests.conformance.objects import Object, config_map, container, definition, deployment, ingress, widget
from tests.support.eventually import eventually

ENDPOINTS = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
REPEATED = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":"1","a":"2"},"data":{"b":"1"}}'
REPEATED_YAML = (
    b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  name: a\ndata:\n  a: '1'\n  a: '2'\nghost: 1\n"
)


def warnings(response: httpx.Response) -> list[str]:
    """Return the texts of all Warning headers of a successful response."""
    succeeded(response)
    found = []
    for header in response.headers.get_list("Warning"):
        assert header.startswith('299 - "'), header
        found.append(header[7:-1].replace('\\"', '"'))
    return found


def ghostly() -> Object:
    return {**config_map("a", labels={"x": "1"}), "ghost": 1}


# unknown fields


@pytest.mark.parametrize("mode", [None, "", "Warn"])
def test_unknown_fields_are_warned_of(api: Api, mode: str | None) -> None:
    body = ghostly()
    body["metadata"]["spook"] = 1
    response = api.send("POST", "configmaps", body=body, fieldValidation=mode)
    assert warnings(response) == ['unknown field "metadata.spook"', 'unknown field "ghost"']
    assert "ghost" not in response.json()


def test_unknown_fields_may_be_ignored(api: Api) -> None:
    assert warnings(api.send("POST", "configmaps", body=ghostly(), fieldValidation="Ignore")) == []


def test_unknown_fields_may_be_refused(api: Api) -> None:
    main = container(comand=["x"])
    body = deployment("web", containers=[main], pod_spec={"tolerationz": []})
    status = refused(api.send("POST", "deployments", body=body, fieldValidation="Strict"), 400, "BadRequest")
    assert status["message"] == (
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '
        'unknown field "spec.template.spec.containers[0].comand", unknown field "spec.template.spec.tolerationz"'
    )


def test_unknown_fields_of_custom_resources(api: Api, widgets: Object) -> None:
    body = {**widget("a", {"size": 1, "ghost": 1}), "spook": 1}
    response = api.send("POST", "widgets", body=body, dryRun="All")
    assert warnings(response) == ['unknown field "spec.ghost"', 'unknown field "spook"']
    status = refused(api.send("POST", "widgets", body=body, fieldValidation="Strict"), 400, "BadRequest")
    assert status["message"] == (
        'Widget in version "v1" cannot be handled as a Widget: strict decoding error: '
        'unknown field "spec.ghost", unknown field "spook"'
    )


@pytest.mark.parametrize("kind", ["merge", "strategic"])
def test_unknown_fields_of_patches(api: Api, kind: str) -> None:
    api.create("deployments", deployment("web", replicas=0))
    patch: Any = {"spec": {"ghost": 1}, "spook": 2}
    options = {"body": patch, "type": PATCHES[kind], "dryRun": "All"}
    found = warnings(api.send("PATCH", "deployments", "web", fieldValidation="Warn", **options))
    assert found == ['unknown field "spec.ghost"', 'unknown field "spook"']
    status = refused(api.send("PATCH", "deployments", "web", fieldValidation="Strict", **options), 422, "Invalid")
    assert causes(status) == {("patch", "FieldValueInvalid")}
    assert status["message"].endswith(': strict decoding error: unknown field "spec.ghost", unknown field "spook"')


def test_unknown_fields_of_apply_are_always_refused(api: Api) -> None:
    body = deployment("web", containers=[container(imaige="x")], metadata={"namespace": api.namespace})
    response = api.try_apply("deployments", body)
    assert response.status_code == 500
    assert response.json()["message"] == (
        f"failed to create typed patch object ({api.namespace}/web; apps/v1, Kind=Deployment): "
        '.spec.template.spec.containers[name="main"].imaige: field not declared in schema'
    )


def test_unknown_fields_of_apply_are_all_named(api: Api, widgets: Object) -> None:
    response = api.try_apply("widgets", {**widget("a", {"size": 1, "ghost": 1}), "spook": 1})
    assert response.status_code == 500
    assert response.json()["message"] == (
        "failed to create typed patch object (/a; example.dev/v1, Kind=Widget): errors:\n"
        "  .spec.ghost: field not declared in schema\n  .spook: field not declared in schema"
    )


def test_modes_that_do_not_exist(api: Api) -> None:
    status = refused(api.send("POST", "configmaps", body=ghostly(), fieldValidation="Sometimes"), 422, "Invalid")
    assert status["message"] == (
        'CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "Sometimes": '
        'supported values: "", "Ignore", "Strict", "Warn"'
    )


# repeated fields


def test_repeated_fields_are_warned_of(api: Api) -> None:
    response = api.send("POST", "configmaps", body=REPEATED)
    assert warnings(response) == ['duplicate field "data.a"', 'duplicate field "data"']
    assert response.json()["data"]["b"] == "1"


def test_repeated_fields_may_be_refused(api: Api) -> None:
    status = refused(api.send("POST", "configmaps", body=REPEATED, fieldValidation="Strict"), 400, "BadRequest")
    assert status["message"] == (
        'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: '
        'duplicate field "data.a", duplicate field "data"'
    )


def test_repeated_fields_may_be_ignored(api: Api) -> None:
    assert warnings(api.send("POST", "configmaps", body=REPEATED, fieldValidation="Ignore")) == []


def test_repeated_keys_of_yaml(api: Api) -> None:
    options: Object = {"body": REPEATED_YAML, "type": "application/yaml", "dryRun": "All"}
    assert warnings(api.send("POST", "configmaps", **options)) == [
        'line 5: key "name" already set in map',
        'line 8: key "a" already set in map',
        'unknown field "ghost"',
    ]
    status = refused(api.send("POST", "configmaps", **options, fieldValidation="Strict"), 400, "BadRequest")
    assert status["message"].endswith(
        ": strict decoding error: yaml: unmarshal errors:\n"
        '  line 5: key "name" already set in map\n  line 8: key "a" already set in map, unknown field "ghost"'
    )


def test_repeated_keys_of_apply(api: Api) -> None:
    body = REPEATED_YAML.replace(b"ghost: 1\n", b"")
    options: Object = {"body": body, "type": PATCHES["apply"], "fieldManager": "tester", "dryRun": "All"}
    lines = ['line 5: key "name" already set in map', 'line 8: key "a" already set in map']
    assert warnings(api.send("PATCH", "configmaps", "a", **options)) == lines
    status = refused(api.send("PATCH", "configmaps", "a", **options, fieldValidation="Strict"), 400, "BadRequest")
    assert status["message"].startswith("error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal")
    assert all(line in status["message"] for line in lines)


# kinds and objects


def test_a_deprecated_kind_is_named_in_every_answer(api: Api) -> None:
    subset = {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}
    body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"}, "subsets": [subset]}
    assert warnings(api.send("POST", "endpoints", body=body)) == [ENDPOINTS]
    assert warnings(api.send("GET", "endpoints", "a")) == [ENDPOINTS]
    assert warnings(api.send("GET", "endpoints")) == [ENDPOINTS]
    assert warnings(api.send("DELETE", "endpoints", "a")) == [ENDPOINTS]


def test_deprecated_versions_of_custom_resources(api: Api) -> None:
    group = f"{api.namespace}.dev"
    schema = {"type": "object", "properties": {"spec": {"type": "object"}}}
    crd = definition("olds", group, "Old", schema, deprecated=True)
    newer = {**crd["spec"]["versions"][0], "name": "v2", "storage": False, "deprecationWarning": "use v3, please"}
    crd["spec"]["versions"].append(newer)
    install_definition(api, crd)
    base = f"/apis/{group}/{{}}/namespaces/{api.namespace}/olds"
    eventually(lambda: api.http.get(base.format("v2")).is_success, "the second version is served")
    assert warnings(api.http.get(base.format("v1"))) == [f"{group}/v1 Old is deprecated"]
    assert warnings(api.http.get(base.format("v2"))) == ["use v3, please"]


def test_finalizers_without_a_domain(api: Api, widgets: Object) -> None:
    body = widget("a", finalizers=["hold", "example.dev/hold"])
    assert warnings(api.send("POST", "widgets", body=body, dryRun="All")) == [
        'metadata.finalizers: "hold": prefer a domain-qualified finalizer name to avoid accidental conflicts with '
        "other finalizer writers"
    ]


def test_doubtful_pods(api: Api) -> None:
    main = container(
        env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        ports=[{"containerPort": 80}, {"containerPort": 80}],
        resources={"requests": {"memory": "100m"}},
    )
    body = deployment(
        "web",
        containers=[main],
        pod_spec={"imagePullSecrets": [{"name": ""}], "nodeSelector": {"beta.kubernetes.io/os": "linux"}},
    )
    at = "spec.template.spec"
    assert warnings(api.send("POST", "deployments", body=body, dryRun="All")) == [
        f'{at}.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead',
        f'{at}.imagePullSecrets[0].name: invalid empty name ""',
        f'{at}.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer',
        f'{at}.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply',
        f"{at}.containers[0].ports[1]: duplicate port definition with {at}.containers[0].ports[0]",
    ]


def test_the_old_annotation_of_an_ingress(api: Api) -> None:
    body = ingress("web")
    body["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "nginx"}
    assert warnings(api.send("POST", "ingresses", body=body)) == [
        "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
    ]
