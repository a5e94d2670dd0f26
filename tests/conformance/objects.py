"""Objects for the cases: functions that return the smallest valid object of a kind, with the given changes."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

IMAGE = "sandbox.local/hello:1"


def _object(api: str, kind: str, name: str, **rest: Any) -> Object:
    metadata = {"name": name, **rest.pop("metadata", {})}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def config_map(name: str, data: dict[str, str] | None = None, **metadata: Any) -> Object:
    return _object("v1", "ConfigMap", name, metadata=metadata, data={"a": "1"} if data is None else data)


def secret(name: str, **rest: Any) -> Object:
    return _object("v1", "Secret", name, **rest)


def container(name: str = "main", **rest: Any) -> Object:
    return {"name": name, "image": IMAGE, **rest}


def pod(name: str, *, containers: list[Object] | None = None, spec: Object | None = None, **metadata: Any) -> Object:
    spec = {"containers": containers or [container()], **(spec or {})}
    return _object("v1", "Pod", name, metadata=metadata, spec=spec)


def deployment(
    name: str,
    *,
    containers: list[Object] | None = None,
    pod_spec: Object | None = None,
    metadata: Object | None = None,
    **spec: Any,
) -> Object:
    labels = {"app": name}
    spec = {
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": containers or [container()], **(pod_spec or {})},
        },
        **spec,
    }
    return _object("apps/v1", "Deployment", name, metadata=metadata or {}, spec=spec)


def stateful_set(name: str, **spec: Any) -> Object:
    obj = deployment(name)
    obj["kind"] = "StatefulSet"
    obj["spec"] |= {"serviceName": name, **spec}
    return obj


def claim_template(name: str = "data") -> Object:
    return {
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def claim(name: str, **spec: Any) -> Object:
    return _object("v1", "PersistentVolumeClaim", name, spec={**claim_template()["spec"], **spec})


def service(name: str, **spec: Any) -> Object:
    spec = {"selector": {"app": name}, "ports": [{"port": 80}], **spec}
    return _object("v1", "Service", name, spec=spec)


def ingress(name: str, **rule: Any) -> Object:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend, **rule}
    return _object(
        "networking.k8s.io/v1",
        "Ingress",
        name,
        spec={"rules": [{"host": "localhost", "http": {"paths": [path]}}]},
    )


def widget(name: str, spec: Object | None = None, **metadata: Any) -> Object:
    """Return a custom resource of the definition that the fixture `widgets` installs."""
    return _object("example.dev/v1", "Widget", name, metadata=metadata, spec={"size": 1} if spec is None else spec)


def owned_by(owner: Object, *, controller: bool = False, block: bool = False) -> list[Object]:
    """Return owner references with one owner, which was read from the server."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return [reference | ({"controller": True} if controller else {}) | ({"blockOwnerDeletion": True} if block else {})]


def definition(plural: str, group: str, kind: str, schema: Object, **version: Any) -> Object:
    """A CustomResourceDefinition with one version, v1."""
    return _object(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        f"{plural}.{group}",
        spec={
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    **version,
                }
            ],
        },
    )


WIDGET_SCHEMA: Object = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "replicas": {"type": "integer", "default": 2},
                "color": {"type": "string", "enum": ["red", "green"], "default": "red"},
                "code": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
                "note": {"type": "string", "nullable": True},
                "share": {"x-kubernetes-int-or-string": True},
                "tags": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
                "finish": {
                    "type": "object",
                    "properties": {"coat": {"type": "string", "default": "matt"}, "layers": {"type": "integer"}},
                },
                "settings": {"type": "object", "additionalProperties": {"type": "string"}},
                "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                    },
                },
                "flags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "steps": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
            },
        },
        "status": {
            "type": "object",
            "properties": {
                "phase": {"type": "string"},
                "replicas": {"type": "integer"},
                "selector": {"type": "string"},
            },
        },
    },
}


def widget_definition() -> Object:
    crd = definition(
        "widgets",
        "example.dev",
        "Widget",
        WIDGET_SCHEMA,
        subresources={
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        additionalPrinterColumns=[
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
    )
    crd["spec"]["names"] |= {"shortNames": ["wd"], "categories": ["all"]}
    return crd
