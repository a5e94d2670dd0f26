"""The arithmetic of rollouts: limits hold in every state, and every rollout ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.kubernetes.controllers.rolling import Limits, Replicas, grow, limits, shrink, spread

AMOUNTS = st.one_of(st.integers(0, 5), st.integers(0, 100).map(lambda share: f"{share}%"))


def counts(name: str, desired: int, available: int = 0) -> Replicas:
    return Replicas(name=name, desired=desired, available=available, max_total=0)


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (1, "25%", "25%", (1, 0)),
        (10, "25%", "25%", (3, 2)),
        (3, 0, "10%", (0, 1)),
        (2, 1, 5, (1, 2)),
    ],
)
def test_limits(replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]) -> None:
    found = limits(replicas, surge, unavailable)
    assert (found.surge, found.unavailable) == expected


def test_unavailable_replicas_go_first() -> None:
    old = [counts("a", 2, available=2), counts("b", 2, available=0)]
    assert shrink(counts("new", 1), old, Limits(replicas=3, surge=2, unavailable=0)) == {"a": 2, "b": 1}


def test_a_stuck_rollout_shrinks_nothing_that_serves() -> None:
    sizes = shrink(counts("new", 1), [counts("old", 2, available=2)], Limits(replicas=2, surge=1, unavailable=0))
    assert sizes == {"old": 2}


def test_scaling_keeps_the_proportion() -> None:
    active = [
        Replicas(name="old", desired=3, available=3, max_total=5),
        Replicas(name="new", desired=2, available=0, max_total=5),
    ]
    assert spread(active, Limits(replicas=9, surge=1, unavailable=0)) == {"old": 6, "new": 4}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 12), AMOUNTS, AMOUNTS)
def test_spreading_hits_the_total(sizes: list[int], replicas: int, surge: int | str, unavailable: int | str) -> None:
    limit = limits(replicas, surge, unavailable)
    active = [counts(str(number), size) for number, size in enumerate(sizes) if size]
    found = spread(active, limit)
    assert all(size >= 0 for size in found.values())
    if active:
        assert sum(found.values()) == (limit.at_most if replicas else 0)


@given(
    old=st.lists(st.integers(0, 6), max_size=3),
    replicas=st.integers(0, 8),
    surge=AMOUNTS,
    unavailable=AMOUNTS,
    lag=st.lists(st.integers(0, 4), min_size=1, max_size=60),
)
def test_a_rollout_keeps_its_limits_and_ends(
    old: list[int], replicas: int, surge: int | str, unavailable: int | str, lag: list[int]
) -> None:
    """Simulate a rollout: Pods become available late, a few at a time, and are deleted at once."""
    limit = limits(replicas, surge, unavailable)
    serving = [counts(str(number), size, size) for number, size in enumerate(old)]
    new = counts("new", 0)
    start = sum(old)
    for ready in [*lag, *[1] * 60]:
        new = replace(new, desired=grow(new, serving, limit))
        new = replace(new, available=min(new.available, new.desired))
        assert new.desired + sum(item.desired for item in serving) <= max(limit.at_most, start)
        before = new.available + sum(item.available for item in serving)
        sizes = shrink(new, serving, limit)
        serving = [
            replace(item, desired=sizes[item.name], available=min(item.available, sizes[item.name])) for item in serving
        ]
        after = new.available + sum(item.available for item in serving)
        assert after >= min(before, limit.at_least)
        new = replace(new, available=min(new.desired, new.available + ready))
    assert new.desired == replicas
    assert sum(item.desired for item in serving) == 0
