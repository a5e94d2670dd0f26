"""Pod specs in the form that the API server stores (canonical form), so that applying one again writes nothing.

Server-side apply compares the applied object with the stored one. Defaults inside maps and keyed lists make no
difference. Two things do: another spelling of the same value, and defaults inside a field that is compared as one value
(references in environment variables, volume claim templates). A list that is merged by key must name each key once.
"""

from __future__ import annotations

from engine.operator.manifests import quantity
from engine.ports import JsonObject


def pod_spec(spec: JsonObject) -> None:
    """Bring a pod's `spec` into canonical form, in place."""
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        _container(container)
    for volume in spec.get("volumes", ()):
        _volume(volume)


def claim_template(claim: JsonObject) -> None:
    """Bring a volume claim template into canonical form, in place: the list of templates is compared as one value."""
    claim.setdefault("apiVersion", "v1")
    claim.setdefault("kind", "PersistentVolumeClaim")
    claim["metadata"].setdefault("creationTimestamp", None)
    claim.setdefault("status", {"phase": "Pending"})
    spec = claim.setdefault("spec", {})
    spec.setdefault("volumeMode", "Filesystem")
    resources(spec.get("resources") or {})


def resources(value: JsonObject) -> None:
    """Bring the quantities of `requests` and `limits` into canonical form, in place."""
    for side in ("requests", "limits"):
        if amounts := value.get(side):
            value[side] = {name: quantity.canonical(str(amount)) for name, amount in amounts.items()}


def variable(entry: JsonObject) -> JsonObject:
    """Return one environment variable in canonical form: without empty values, with complete references."""
    canonical = {key: value for key, value in entry.items() if value not in (None, "", {})}
    if source := canonical.get("valueFrom"):
        canonical["valueFrom"] = _reference(source)
    return canonical


def by_key(items: list[JsonObject], key: str) -> list[JsonObject]:
    """Return `items` with each value of `key` once: of several, the last item stays, in its own place."""
    kept: dict[object, JsonObject] = {}
    for item in items:
        kept.pop(item.get(key), None)
        kept[item.get(key)] = item
    return list(kept.values())


def _container(container: JsonObject) -> None:
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    if env := container.get("env"):
        container["env"] = by_key([variable(entry) for entry in env], "name")
    resources(container.get("resources") or {})
    for field in [field for field, value in container.items() if value == []]:
        del container[field]


def _volume(volume: JsonObject) -> None:
    empty = volume.get("emptyDir")
    if empty and "sizeLimit" in empty:
        empty["sizeLimit"] = quantity.canonical(str(empty["sizeLimit"]))
    for item in (volume.get("downwardAPI") or {}).get("items", ()):
        item.update(_reference(item))


def _reference(source: JsonObject) -> JsonObject:
    source = dict(source)
    if field := source.get("fieldRef"):
        source["fieldRef"] = {"apiVersion": "v1", **field}
    if resource := source.get("resourceFieldRef"):
        source["resourceFieldRef"] = {**resource, "divisor": quantity.canonical(str(resource.get("divisor", "0")))}
    return source
