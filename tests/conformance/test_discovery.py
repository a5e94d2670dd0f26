"""Discovery: health, version, groups, resources, OpenAPI."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import Api, succeeded
from tests.conformance.objects import Object


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health(api: Api, path: str) -> None:
    answer = api.http.get(path)
    assert (answer.status_code, answer.text) == (200, "ok")


def test_version(api: Api) -> None:
    version = succeeded(api.http.get("/version"))
    assert version["gitVersion"].startswith("v1.")
    assert version["major"] == "1"


def test_core_versions(api: Api) -> None:
    assert succeeded(api.http.get("/api"))["versions"] == ["v1"]


def test_groups(api: Api) -> None:
    listed = succeeded(api.http.get("/apis"))
    assert listed["kind"] == "APIGroupList"
    versions = {group["name"]: group["preferredVersion"]["groupVersion"] for group in listed["groups"]}
    assert versions["apps"] == "apps/v1"
    assert versions["networking.k8s.io"] == "networking.k8s.io/v1"
    assert versions["apiextensions.k8s.io"] == "apiextensions.k8s.io/v1"


def test_one_group(api: Api) -> None:
    group = succeeded(api.http.get("/apis/apps"))
    assert (group["kind"], group["name"]) == ("APIGroup", "apps")
    assert {"groupVersion": "apps/v1", "version": "v1"} in group["versions"]


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("/api/v1", "pods", {"kind": "Pod", "namespaced": True, "shortNames": ["po"]}),
        ("/api/v1", "namespaces", {"kind": "Namespace", "namespaced": False, "shortNames": ["ns"]}),
        ("/api/v1", "configmaps", {"kind": "ConfigMap", "namespaced": True, "shortNames": ["cm"]}),
        ("/api/v1", "pods/status", {"kind": "Pod", "namespaced": True}),
        ("/apis/apps/v1", "deployments", {"kind": "Deployment", "namespaced": True, "shortNames": ["deploy"]}),
        ("/apis/apps/v1", "deployments/scale", {"kind": "Scale", "group": "autoscaling", "version": "v1"}),
        ("/apis/apps/v1", "statefulsets/status", {"kind": "StatefulSet", "namespaced": True}),
        ("/apis/example.dev/v1", "widgets", {"kind": "Widget", "shortNames": ["wd"], "categories": ["all"]}),
        ("/apis/example.dev/v1", "widgets/status", {"kind": "Widget", "namespaced": True}),
    ],
)
def test_resources(api: Api, widgets: Object, path: str, name: str, expected: dict[str, Any]) -> None:
    listed = succeeded(api.http.get(path))
    assert listed["kind"] == "APIResourceList"
    assert listed["groupVersion"] == path.removeprefix("/apis/").removeprefix("/api/")
    found = {resource["name"]: resource for resource in listed["resources"]}[name]
    assert expected.items() <= found.items()


def test_verbs_of_a_resource(api: Api) -> None:
    resources = succeeded(api.http.get("/api/v1"))["resources"]
    verbs = next(resource["verbs"] for resource in resources if resource["name"] == "configmaps")
    assert set(verbs) == {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}


@pytest.mark.parametrize("path", ["/apis/nobody.example/v1", "/apis/nobody.example", "/api/v9", "/api/v1/ghosts"])
def test_unknown_paths_are_not_found(api: Api, path: str) -> None:
    assert api.http.get(path).status_code == 404


def test_openapi_describes_the_kinds(api: Api) -> None:
    document = succeeded(api.http.get("/openapi/v2"))
    kinds = {
        (item["group"], item["version"], item["kind"])
        for schema in document["definitions"].values()
        for item in schema.get("x-kubernetes-group-version-kind", [])
    }
    assert {("apps", "v1", "Deployment"), ("", "v1", "Pod"), ("", "v1", "ConfigMap")} <= kinds
