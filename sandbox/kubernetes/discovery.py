"""Discovery, which clients read first: the served groups, versions and resources, and their OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sandbox.kubernetes.kinds import Kind, Kinds
from sandbox.kubernetes.schema import NOTHING, Schema

Object = dict[str, Any]

VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.4+sandbox",
    "gitCommit": "sandbox",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "cpython",
    "platform": "linux/amd64",
}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]

# Resources that answer a request without being stored: (group, version, plural, kind, namespaced).
REVIEWS = (
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    ("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False),
    ("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False),
    ("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False),
)

_PRIORITY = re.compile(r"^v(\d+)(?:(alpha|beta)(\d+))?$")


def _rank(version: str) -> tuple[int, int, int]:
    """Return the sort key of a version in Kubernetes' order: stable before beta before alpha, newer before older."""
    match = _PRIORITY.match(version)
    if match is None:
        return (3, 0, 0)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0))


def _versions(kinds: Kinds, group: str) -> list[str]:
    found = {kind.version for kind in kinds if kind.group == group} | {row[1] for row in REVIEWS if row[0] == group}
    return sorted(found, key=_rank)


def core(kinds: Kinds, address: str) -> Object:
    """Return the APIVersions of the core group."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group(kinds: Kinds, name: str) -> Object | None:
    """Return the entry of an API group, None for an unknown group."""
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in _versions(kinds, name)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]} if versions else None


def groups(kinds: Kinds) -> Object:
    """Return the APIGroupList."""
    names = dict.fromkeys([kind.group for kind in kinds if kind.group] + [row[0] for row in REVIEWS])
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(kinds, name) for name in names]}


def resources(kinds: Kinds, group: str, version: str) -> Object | None:
    """Return the APIResourceList of a group version; None when there is no such version."""
    entries: list[Object] = []
    for kind in sorted(kinds, key=lambda kind: kind.plural):
        if (kind.group, kind.version) == (group, version):
            entries += _entries(kind)
    for owner, served, plural, name, namespaced in REVIEWS:
        if (owner, served) == (group, version):
            entry = {"name": plural, "singularName": "", "namespaced": namespaced, "kind": name, "verbs": ["create"]}
            entries.append(entry)
    if not entries:
        return None
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def _entries(kind: Kind) -> list[Object]:
    base = {"singularName": "", "namespaced": kind.namespaced, "kind": kind.kind}
    verbs = [verb for verb in _VERBS if not (kind.plural == "namespaces" and verb == "deletecollection")]
    entry = {"name": kind.plural, **base, "singularName": kind.singular, "verbs": verbs}
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    entries = [entry]
    if kind.status:
        entries.append({"name": f"{kind.plural}/status", **base, "verbs": ["get", "patch", "update"]})
    if kind.scale:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]}
        entries.append({"name": f"{kind.plural}/scale", **base, **scale})
    if kind.resource == "pods":
        entries.append({"name": "pods/binding", **base, "kind": "Binding", "verbs": ["create"]})
        entries.append({"name": "pods/log", **base, "verbs": ["get"]})
        eviction = {"group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]}
        entries.append({"name": "pods/eviction", **base, **eviction})
    return entries


# OpenAPI


class _Definitions:
    """OpenAPI definitions of schemas; each model is defined once and then referenced."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.found: dict[str, Object] = {}

    def reference(self, name: str, describe: Callable[[], Object]) -> Object:
        if name not in self.found:
            self.found[name] = {}
            self.found[name] = describe()
        return {"$ref": f"{self.prefix}{name}"}

    def of(self, schema: Schema) -> Object:
        if schema.model.startswith(("V1", "V2", "Core", "Rbac", "Apiext", "Admission", "Discovery")):
            return self.reference(f"io.k8s.{schema.model}", lambda: self._node(schema))
        return self._node(schema)

    def _node(self, schema: Schema) -> Object:
        node: Object = {"type": schema.type} if schema.type else {}
        if schema.int_or_string:
            node = {"x-kubernetes-int-or-string": True}
        if schema.properties:
            node["properties"] = {name: self.of(below) for name, below in schema.properties.items()}
        if schema.values is not None:
            node["additionalProperties"] = self.of(schema.values)
        if schema.items is not None:
            node["items"] = self.of(schema.items)
        if schema.required:
            node["required"] = list(schema.required)
        if schema.default is not NOTHING:
            node["default"] = schema.default
        node |= schema.source
        if schema.type == "array":
            node |= _list_extensions(schema)
        elif schema.atomic:
            node["x-kubernetes-map-type"] = "atomic"
        if schema.preserve:
            node["x-kubernetes-preserve-unknown-fields"] = True
        return node


def _list_extensions(schema: Schema) -> Object:
    extensions: Object = {"x-kubernetes-list-type": "atomic"}
    if schema.keys:
        extensions = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(schema.keys)}
    elif schema.is_set:
        extensions = {"x-kubernetes-list-type": "set"}
    if schema.merge_key:
        extensions |= {"x-kubernetes-patch-merge-key": schema.merge_key, "x-kubernetes-patch-strategy": "merge"}
    elif schema.is_set and schema.built_in:
        extensions["x-kubernetes-patch-strategy"] = "merge"
    return extensions


def definition_name(kind: Kind) -> str:
    reversed_group = ".".join(reversed(kind.group.split("."))) if kind.group else "io.k8s.api.core"
    return f"{reversed_group}.{kind.version}.{kind.kind}"


def _define(definitions: _Definitions, kind: Kind) -> None:
    def describe() -> Object:
        named = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        return {**definitions._node(kind.schema), "x-kubernetes-group-version-kind": [named]}

    definitions.reference(definition_name(kind), describe)


def openapi_v2(kinds: Kinds) -> Object:
    definitions = _Definitions("#/definitions/")
    for kind in kinds:
        _define(definitions, kind)
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": definitions.found}


def openapi_v3_index(kinds: Kinds) -> Object:
    places = {_place(kind): True for kind in kinds}
    return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places}}


def _place(kind: Kind) -> str:
    return f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"


def openapi_v3(kinds: Kinds, place: str) -> Object | None:
    """Return the document of a group version, e.g. `apis/apps/v1`: schemas, and the parameters of PATCH and POST."""
    definitions = _Definitions("#/components/schemas/")
    paths: Object = {}
    for kind in kinds:
        if _place(kind) != place:
            continue
        _define(definitions, kind)
        inside = "/namespaces/{namespace}" if kind.namespaced else ""
        parameters = [
            {"name": name, "in": "query", "schema": {"type": "string"}}
            for name in ("dryRun", "fieldManager", "fieldValidation", "force", "pretty")
        ]
        named = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        operation = {
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": named,
        }
        patch = {**operation, "x-kubernetes-action": "patch"}
        paths[f"/{place}{inside}/{kind.plural}/{{name}}"] = {"patch": patch}
        paths[f"/{place}{inside}/{kind.plural}"] = {"post": {**operation, "x-kubernetes-action": "post"}}
    if not paths:
        return None
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": definitions.found}}
