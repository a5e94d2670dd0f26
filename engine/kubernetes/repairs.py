"""How soon a drift is repaired: at once, unless another client keeps undoing the repair.

An object that drifts again soon after each repair is repaired ever more rarely, so that two controllers that disagree
do not write the same object without end.
"""

from __future__ import annotations

from datetime import timedelta

CALM = timedelta(seconds=60)
"""An object that drifts again within this time after our apply counts as drifting in a row."""
FREE_REPAIRS = 3
"""Repairs in a row that are made at once; after that the delay doubles."""
REPAIR_CAP = 300.0
"""Longest delay of a repair, seconds."""


def repair_delay(repairs: int) -> timedelta:
    """Return how long to wait before the repair that is number `repairs` (from 1) in a row."""
    if repairs <= FREE_REPAIRS:
        return timedelta()
    return timedelta(seconds=min(REPAIR_CAP, 2.0 ** min(repairs - FREE_REPAIRS, 20)))
