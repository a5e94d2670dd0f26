"""A container's environment, resolved from the Pod spec exactly as a kubelet does it.

Order and precedence follow Kubernetes: `envFrom` in order, then `env` in order; a later entry overrides an earlier
one; `$(NAME)` refers to the variables defined so far. Secret values go from here into the process and nowhere else.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["secrets", "configmaps"]
# Reads one object: (kind, namespace, name) → object, None when there is none.
Lookup = Callable[[Kind, str, str], Awaitable[dict[str, Any] | None]]

_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_REFERENCE = re.compile(r"\$(\$|\((?P<name>[^()]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(?P<map>labels|annotations)\['(?P<key>[^']+)'\]")
_QUANTITY = re.compile(r"(?P<number>[0-9.]+)(?P<suffix>[a-zA-Z]*)")
_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
             "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip

# Names of the kinds in the kubelet's messages, which people search for.
_KIND_WORDS: dict[Kind, tuple[str, str]] = {
    "secrets": ("secret", "Secret"),
    "configmaps": ("configmap", "ConfigMap"),
}


class ContainerConfigError(Exception):
    """The environment cannot be resolved; the container waits with the reason CreateContainerConfigError."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value; unknown names stay unchanged, `$$` becomes one dollar sign."""

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return "$"
        return env.get(name, match[0])

    return _REFERENCE.sub(replace, text)


def api_server_variables(url: str) -> dict[str, str]:
    """Return the variables by which a program in a pod finds the API server."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    return {"KUBERNETES_SERVICE_HOST": parts.hostname or "", "KUBERNETES_SERVICE_PORT": str(port)}


async def resolve(pod: dict[str, Any], container: dict[str, Any], lookup: Lookup) -> dict[str, str]:
    """Return the environment of `container`. Raises ContainerConfigError with the kubelet's message."""
    namespace: str = pod["metadata"]["namespace"]
    env: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        env.update(await _from_source(source, namespace, lookup))
    for entry in container.get("env") or ():
        value = await _value(entry, pod, container, env, lookup)
        if value is not None:
            env[entry["name"]] = value
    return env


async def _from_source(source: dict[str, Any], namespace: str, lookup: Lookup) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    env: dict[str, str] = {}
    for kind, field in (("configmaps", "configMapRef"), ("secrets", "secretRef")):
        ref = source.get(field)
        if ref is None:
            continue
        values = await _read(kind, ref, namespace, lookup)  # type: ignore[arg-type]
        env.update({prefix + key: value for key, value in values.items() if _NAME.fullmatch(prefix + key)})
    return env


async def _value(
    entry: dict[str, Any], pod: dict[str, Any], container: dict[str, Any], env: dict[str, str], lookup: Lookup
) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(entry.get("value") or "", env)
    if (ref := source.get("fieldRef")) is not None:
        return _field(pod, ref["fieldPath"])
    if (ref := source.get("resourceFieldRef")) is not None:
        return _resource(pod, container, ref)
    for kind, field in (("secrets", "secretKeyRef"), ("configmaps", "configMapKeyRef")):
        if (ref := source.get(field)) is not None:
            return await _key(kind, ref, pod["metadata"]["namespace"], lookup)  # type: ignore[arg-type]
    raise ContainerConfigError(f"env {entry['name']}: unknown valueFrom {sorted(source)}")


async def _key(kind: Kind, ref: dict[str, Any], namespace: str, lookup: Lookup) -> str | None:
    values = await _read(kind, ref, namespace, lookup)
    if ref["key"] in values:
        return values[ref["key"]]
    if ref.get("optional"):
        return None
    raise ContainerConfigError(f"couldn't find key {ref['key']} in {_KIND_WORDS[kind][1]} {namespace}/{ref['name']}")


async def _read(kind: Kind, ref: dict[str, Any], namespace: str, lookup: Lookup) -> dict[str, str]:
    found = await lookup(kind, namespace, ref["name"])
    if found is None:
        if ref.get("optional"):
            return {}
        raise ContainerConfigError(f'{_KIND_WORDS[kind][0]} "{ref["name"]}" not found')
    stored: dict[str, str] = found.get("data") or {}
    if kind == "configmaps":
        return stored
    return {key: os.fsdecode(base64.b64decode(value)) for key, value in stored.items()}


def _field(pod: dict[str, Any], path: str) -> str:
    if match := _SUBSCRIPT.fullmatch(path):
        return str((pod["metadata"].get(match["map"]) or {}).get(match["key"], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries: dict[str, str] = pod["metadata"].get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    if path in ("status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"):
        return "127.0.0.1"
    head, _, field = path.partition(".")
    if head in ("metadata", "spec") and field in (
        "name",
        "namespace",
        "uid",
        "nodeName",
        "serviceAccountName",
    ):
        return str(pod[head].get(field, ""))
    raise ContainerConfigError(f"unsupported fieldPath: {path}")


def _resource(pod: dict[str, Any], container: dict[str, Any], ref: dict[str, Any]) -> str:
    spec = pod["spec"]
    if name := ref.get("containerName"):
        container = next((one for one in spec["containers"] if one["name"] == name), container)
    section, _, resource = str(ref["resource"]).partition(".")
    quantity = ((container.get("resources") or {}).get(section) or {}).get(resource, "0")
    divisor = ref.get("divisor") or "1"
    # Kubernetes rounds up: half a core is 1 with divisor 1.
    amount = _number(str(quantity)) / (_number(str(divisor)) or 1.0)
    return str(int(-(-amount // 1)))


def _number(quantity: str) -> float:
    match = _QUANTITY.fullmatch(quantity)
    if match is None or match["suffix"] not in _SUFFIXES:
        raise ContainerConfigError(f"cannot read the quantity {quantity!r}")
    return float(match["number"]) * _SUFFIXES[match["suffix"]]
