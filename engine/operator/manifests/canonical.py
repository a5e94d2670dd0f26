"""Pod specs in the form that the API server stores, so that applying the same thing again writes nothing.

Server-side apply compares what is applied with what is stored. Defaults inside maps and keyed lists do not disturb
it; other spellings of the same value do, and so do defaults inside what it treats as one value (references in
environment variables, volume claim templates). Lists that it merges by key must also name each key once.
"""

from __future__ import annotations

from typing import Any

from engine.operator.manifests import quantity

Json = Any


def pod_spec(spec: dict[str, Json]) -> None:
    """Bring `spec` into canonical form, in place."""
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        _container(container)
    for volume in spec.get("volumes", ()):
        _volume(volume)


def claim_template(claim: dict[str, Json]) -> None:
    """Bring a volume claim template into canonical form, in place: all of them together are one value."""
    claim.setdefault("apiVersion", "v1")
    claim.setdefault("kind", "PersistentVolumeClaim")
    claim["metadata"].setdefault("creationTimestamp", None)
    claim.setdefault("status", {"phase": "Pending"})
    spec = claim.setdefault("spec", {})
    spec.setdefault("volumeMode", "Filesystem")
    resources(spec.get("resources") or {})


def resources(value: dict[str, Json]) -> None:
    """Bring the quantities of `requests` and `limits` into canonical form, in place."""
    for side in ("requests", "limits"):
        if amounts := value.get(side):
            value[side] = {name: quantity.canonical(str(amount)) for name, amount in amounts.items()}


def variable(entry: dict[str, Json]) -> dict[str, Json]:
    """Return one environment variable in canonical form: empty values are left out, references are complete."""
    canonical = {key: value for key, value in entry.items() if value not in (None, "", {})}
    if source := canonical.get("valueFrom"):
        canonical["valueFrom"] = _reference(source)
    return canonical


def by_key(items: list[dict[str, Json]], key: str) -> list[dict[str, Json]]:
    """Return `items` with each `key` once: a later one replaces an earlier one, at the later one's place."""
    kept: dict[Json, dict[str, Json]] = {}
    for item in items:
        kept.pop(item.get(key), None)
        kept[item.get(key)] = item
    return list(kept.values())


def _container(container: dict[str, Json]) -> None:
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    if env := container.get("env"):
        container["env"] = by_key([variable(entry) for entry in env], "name")
    resources(container.get("resources") or {})
    for field in [field for field, value in container.items() if value == []]:
        del container[field]


def _volume(volume: dict[str, Json]) -> None:
    empty = volume.get("emptyDir")
    if empty and "sizeLimit" in empty:
        empty["sizeLimit"] = quantity.canonical(str(empty["sizeLimit"]))
    for item in (volume.get("downwardAPI") or {}).get("items", ()):
        item.update(_reference(item))


def _reference(source: dict[str, Json]) -> dict[str, Json]:
    source = dict(source)
    if field := source.get("fieldRef"):
        source["fieldRef"] = {"apiVersion": "v1", **field}
    if resource := source.get("resourceFieldRef"):
        source["resourceFieldRef"] = {**resource, "divisor": quantity.canonical(str(resource.get("divisor", "0")))}
    return source
