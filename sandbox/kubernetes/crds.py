"""CustomResourceDefinitions: the kinds that a CRD serves, and the status of a CRD.

The server serves a definition as soon as it is stored, so `Established` is True at once. All versions of a resource
share the storage; conversion only changes `apiVersion` (strategy None).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sandbox.kubernetes.kinds import Kind, object_meta
from sandbox.kubernetes.schema import STRING, Schema, compile_openapi

Object = dict[str, Any]

RESOURCE = "customresourcedefinitions.apiextensions.k8s.io"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""Finalizer that keeps a definition until all its objects are deleted."""


def _root(version: Object) -> Schema:
    spec = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    compiled = compile_openapi(spec, object_meta())
    return replace(
        compiled,
        type="object",
        has_defaults=True,
        properties={**compiled.properties, "apiVersion": STRING, "kind": STRING, "metadata": object_meta()},
    )


def kinds_of(definition: Object) -> list[Kind]:
    """Return one Kind per served version of a definition."""
    spec = definition["spec"]
    names = spec["names"]
    storage = next(version["name"] for version in spec["versions"] if version["storage"])
    kinds = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        kinds.append(
            Kind(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                schema=_root(version),
                namespaced=spec["scope"] == "Namespaced",
                singular=names.get("singular") or names["kind"].lower(),
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                status="status" in subresources,
                scale=subresources.get("scale"),
                custom=True,
                storage_version=storage,
                columns=tuple(version.get("additionalPrinterColumns") or ()),
                deprecation=_deprecation(spec["group"], names["kind"], version),
                list_kind=names.get("listKind") or names["kind"] + "List",
            )
        )
    return kinds


def _deprecation(group: str, kind: str, version: Object) -> str:
    if not version.get("deprecated"):
        return ""
    return version.get("deprecationWarning") or f"{group}/{version['name']} {kind} is deprecated"


def established(definition: Object, time: str) -> Object:
    """Return the status of a served definition; `time` is that of new conditions."""
    old = {condition["type"]: condition for condition in (definition.get("status") or {}).get("conditions") or ()}
    words = {
        "NamesAccepted": ("NoConflicts", "no conflicts found"),
        "Established": ("InitialNamesAccepted", "the initial names have been accepted"),
    }
    conditions = [
        old.get(name)
        or {"type": name, "status": "True", "lastTransitionTime": time, "reason": reason, "message": message}
        for name, (reason, message) in words.items()
    ]
    stored = list((definition.get("status") or {}).get("storedVersions") or ())
    storage = next(version["name"] for version in definition["spec"]["versions"] if version.get("storage"))
    names = definition["spec"]["names"]
    return {
        "conditions": conditions,
        "acceptedNames": names,
        "storedVersions": stored if storage in stored else [*stored, storage],
    }
