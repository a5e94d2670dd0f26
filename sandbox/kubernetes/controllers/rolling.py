"""The arithmetic of a rollout, free of I/O: how many replicas each ReplicaSet should have now.

`sizes` functions take what exists as `Replicas` values and return the new sizes by name; a name that is missing
keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """One ReplicaSet as the arithmetic sees it."""

    name: str
    wanted: int  # spec.replicas
    available: int  # status.availableReplicas
    max_total: int  # all replicas that were allowed when it was last scaled; 0 when unknown


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a rollout may deviate from the wanted number of replicas."""

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
    """Percentages are of `replicas`: surge rounded up, unavailable down; both zero would never move."""
    extra, missing = math.ceil(_share(surge, replicas)), math.floor(_share(unavailable, replicas))
    if not extra and not missing:
        missing = 1
    return Limits(replicas=replicas, surge=extra, unavailable=min(missing, replicas))


def _share(value: int | str, replicas: int) -> float:
    return value if isinstance(value, int) else int(value.removesuffix("%")) * replicas / 100


def grow(new: Replicas, old: Sequence[Replicas], limit: Limits) -> int:
    """The size of the newest ReplicaSet: as large as the surge allows, never larger than wanted."""
    if new.wanted >= limit.replicas:
        return limit.replicas
    room = limit.at_most - new.wanted - sum(item.wanted for item in old)
    return new.wanted + max(0, min(room, limit.replicas - new.wanted))


def shrink(new: Replicas, old: Sequence[Replicas], limit: Limits) -> dict[str, int]:
    """The sizes of the older ReplicaSets, oldest first: first what is not available anyway, then the rest.

    Never fewer available replicas than `limit.at_least`, counting only those of the new one that are available.
    """
    sizes = {item.name: item.wanted for item in old}
    total = new.wanted + sum(sizes.values())
    budget = total - limit.at_least - (new.wanted - new.available)
    if budget <= 0:
        return sizes
    for item in old:
        cut = max(0, min(budget, item.wanted - item.available))
        sizes[item.name] -= cut
        budget -= cut
    spare = new.available + sum(item.available for item in old) - limit.at_least
    for item in old:
        cut = max(0, min(spare, sizes[item.name]))
        sizes[item.name] -= cut
        spare -= cut
    return sizes


def spread(active: Sequence[Replicas], limit: Limits) -> dict[str, int]:
    """New sizes in proportion, for a Deployment that is scaled in the middle of a rollout or while paused."""
    sizes = {item.name: item.wanted for item in active}
    total = sum(sizes.values())
    allowed = limit.at_most if limit.replicas else 0
    to_add = allowed - total
    ordered = sorted(active, key=lambda item: item.wanted, reverse=True)
    for item in ordered:
        if not to_add or not item.wanted:
            continue
        share = round(item.wanted * allowed / (item.max_total or total)) - item.wanted
        share = min(share, to_add) if to_add > 0 else max(share, to_add, -item.wanted)
        if (share > 0) == (to_add > 0) and share:
            sizes[item.name] += share
            to_add -= share
    if ordered and to_add:
        sizes[ordered[0].name] = max(0, sizes[ordered[0].name] + to_add)
    return sizes
