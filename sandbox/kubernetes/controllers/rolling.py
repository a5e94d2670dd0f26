"""The arithmetic of a rollout: how many replicas each ReplicaSet should have now. Pure.

The functions take the existing ReplicaSets as `Replicas`. `shrink` and `spread` return new sizes by name; a ReplicaSet
without an entry keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The numbers of one ReplicaSet."""

    name: str
    desired: int
    """spec.replicas."""
    available: int
    """status.availableReplicas."""
    max_total: int
    """How many replicas the Deployment was allowed when this ReplicaSet was last scaled; 0 when unknown."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a rollout may deviate from the desired number of replicas."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def at_most(self) -> int:
        return self.replicas + self.surge

    @property
    def at_least(self) -> int:
        return self.replicas - self.unavailable


def limits(replicas: int, surge: int | str, unavailable: int | str) -> Limits:
    """Return the limits of a rollout from maxSurge and maxUnavailable.

    Percentages refer to `replicas`; surge is rounded up, unavailable down. If both are 0, unavailable becomes 1:
    otherwise the rollout could not progress.
    """
    extra, missing = math.ceil(_share(surge, replicas)), math.floor(_share(unavailable, replicas))
    if not extra and not missing:
        missing = 1
    return Limits(replicas=replicas, surge=extra, unavailable=min(missing, replicas))


def _share(value: int | str, replicas: int) -> float:
    return value if isinstance(value, int) else int(value.removesuffix("%")) * replicas / 100


def grow(new: Replicas, old: Sequence[Replicas], limit: Limits) -> int:
    """Return the size of the newest ReplicaSet: as large as the surge allows, but not larger than desired."""
    if new.desired >= limit.replicas:
        return limit.replicas
    room = limit.at_most - new.desired - sum(item.desired for item in old)
    return new.desired + max(0, min(room, limit.replicas - new.desired))


def shrink(new: Replicas, old: Sequence[Replicas], limit: Limits) -> dict[str, int]:
    """Return the sizes of the older ReplicaSets (`old`, oldest first): unavailable replicas are removed first.

    At least `limit.at_least` replicas stay available; of the new ReplicaSet, only available replicas count.
    """
    sizes = {item.name: item.desired for item in old}
    total = new.desired + sum(sizes.values())
    budget = total - limit.at_least - (new.desired - new.available)
    if budget <= 0:
        return sizes
    for item in old:
        cut = max(0, min(budget, item.desired - item.available))
        sizes[item.name] -= cut
        budget -= cut
    spare = new.available + sum(item.available for item in old) - limit.at_least
    for item in old:
        cut = max(0, min(spare, sizes[item.name]))
        sizes[item.name] -= cut
        spare -= cut
    return sizes


def spread(active: Sequence[Replicas], limit: Limits) -> dict[str, int]:
    """Return sizes in proportion, for a Deployment that is scaled during a rollout or while it is paused."""
    sizes = {item.name: item.desired for item in active}
    total = sum(sizes.values())
    allowed = limit.at_most if limit.replicas else 0
    to_add = allowed - total
    ordered = sorted(active, key=lambda item: item.desired, reverse=True)
    for item in ordered:
        if not to_add or not item.desired:
            continue
        share = round(item.desired * allowed / (item.max_total or total)) - item.desired
        share = min(share, to_add) if to_add > 0 else max(share, to_add, -item.desired)
        if (share > 0) == (to_add > 0) and share:
            sizes[item.name] += share
            to_add -= share
    if ordered and to_add:
        sizes[ordered[0].name] = max(0, sizes[ordered[0].name] + to_add)
    return sizes
