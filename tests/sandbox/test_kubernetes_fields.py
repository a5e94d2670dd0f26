"""Small pure parts of the API server: quantities, protobuf bodies, JSONPath of printer columns, field paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.kubernetes.apply import dotted, from_fields, to_fields
from sandbox.kubernetes.defaults import canonical_quantity
from sandbox.kubernetes.protobuf import decode
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.tables import find_all


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("0.5", "500m"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("2000m", "2"),
        ("1000", "1k"),
        ("1e3", "1e3"),
        ("0", "0"),
        ("0.1m", "100u"),
        ("100M", "100M"),
        ("1Gi", "1Gi"),
        ("1 Gi", None),
        ("many", None),
        ("", None),
    ],
)
def test_quantities_are_stored_in_canonical_form(given: str, stored: str | None) -> None:
    assert canonical_quantity(given) == stored


@given(st.integers(0, 10**6), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi"]))
def test_canonical_quantities_stay_as_they_are(number: int, unit: str) -> None:
    once = canonical_quantity(f"{number}{unit}")
    assert once is not None
    assert canonical_quantity(once) == once


_NAMES = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])


@given(st.sets(st.lists(_NAMES, min_size=1, max_size=4).map(tuple)))
def test_field_paths_survive_their_encoding(paths: set[tuple[str, ...]]) -> None:
    assert from_fields(to_fields(paths)) == paths


def test_paths_for_people() -> None:
    path = ("f:spec", "f:containers", 'k:{"name":"web"}', "f:finalizers", 'v:"a"')
    assert dotted(path) == '.spec.containers[name="web"].finalizers[="a"]'


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def _envelope(kind: bytes, raw: bytes) -> bytes:
    return b"k8s\x00" + _field(1, _field(1, b"v1") + _field(2, kind)) + _field(2, raw)


def test_a_protobuf_config_map() -> None:
    entry = _field(1, b"key") + _field(2, b"value")
    body = _envelope(b"ConfigMap", _field(1, _field(1, b"web")) + _field(2, entry))
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"key": "value"}}
    assert decode(body) == wanted


@pytest.mark.parametrize(
    "body",
    [_envelope(b"Gadget", b""), _envelope(b"ConfigMap", _field(9, b"x")), b"k8s\x00\x0a", b"{}"],
    ids=["unknown kind", "unknown field", "cut off", "not protobuf"],
)
def test_protobuf_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        decode(body)
    assert refused.value.code == 415


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.replicas", [3]),
        (".spec.items[*].name", ["a", "b"]),
        (".spec.items[1].name", ["b"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".metadata.labels['x.y/z']", ["1"]),
        (r".metadata.labels.x\.y/z", ["1"]),
        (".nowhere.at.all", []),
    ],
)
def test_json_paths(path: str, found: list[object]) -> None:
    obj = {
        "metadata": {"labels": {"x.y/z": "1"}},
        "spec": {"replicas": 3, "items": [{"name": "a"}, {"name": "b"}]},
        "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]},
    }
    assert find_all(obj, path) == found
