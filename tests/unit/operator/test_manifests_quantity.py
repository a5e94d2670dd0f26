"""Quantities in the API server's spelling."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from engine.operator.manifests import quantity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("1.", "1"),
        ("2000", "2k"),
        ("2048Mi", "2Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("1024Gi", "1Ti"),
        ("1e3", "1e3"),
        ("12e2", "1200"),
        ("0", "0"),
        ("0Gi", "0"),
        ("-1000m", "-1"),
        ("+2", "2"),
        ("much", "much"),
        ("1e999999999", "1e999999999"),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert quantity.canonical(text) == expected


amounts = st.builds(
    lambda digits, suffix: f"{digits}{suffix}",
    st.one_of(st.integers(0, 10**6), st.decimals(0, 1000, places=2).map(lambda it: f"{it:f}")),
    st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "Ti"]),
)


@given(amounts)
def test_canonical_keeps_the_amount_and_is_stable(text: str) -> None:
    assert quantity.parse(quantity.canonical(text)) == quantity.parse(text)
    assert quantity.canonical(quantity.canonical(text)) == quantity.canonical(text)


@given(amounts)
def test_doubled(text: str) -> None:
    amount, twice = quantity.parse(text), quantity.doubled(text)
    assert amount is not None
    assert twice is not None
    assert quantity.parse(twice) == 2 * amount


@pytest.mark.parametrize(("text", "expected"), [("1Gi", 1024), ("1", 1), ("1.5Mi", 2), ("lots", None)])
def test_mebibytes_round_up(text: str, expected: int | None) -> None:
    assert quantity.mebibytes(text) == expected
