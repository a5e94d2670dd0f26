"""What stops working without each right of the `helm uninstall` Job: see `tests/chart/rights.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from engine import bootstrap
from engine.errors import ClusterError
from engine.kubernetes.namespace_lease import LEASE_NAME
from tests.chart.rights import (
    Line,
    Right,
    Stage,
    assert_needed,
    name_of,
    rights_of,
)


@dataclass
class Release:
    """The command `agentplane leases release`."""

    stage: Stage

    def __post_init__(self) -> None:
        self.stage.lease(timedelta())
        self._lines: list[str] = []

    def run(self, fix: Callable[[], None]) -> None:
        with pytest.raises(ClusterError) as refused:
            self._release()
        self._lines = [f"error {refused.value}"]
        fix()
        self._release()

    def _release(self) -> None:
        bootstrap.leases_of(self.stage.settings, self.stage.accounts["leases"]).release(self.stage.namespace)

    def done(self) -> bool:
        return self.stage.get("leases", LEASE_NAME) is None

    def reports(self) -> list[str]:
        return self._lines


LEASES: dict[Right, Line] = {
    **{
        Right("leases", verb, "leases"): Line(
            stops="a removed data plane keeps its lease of the namespace", shown=Release, reported_as="error"
        )
        for verb in ("get", "delete")
    },
}


@pytest.mark.parametrize("right", LEASES, ids=name_of)
def test_what_stops_without(right: Right, stages: Callable[[str], Stage]) -> None:
    assert_needed(right, LEASES[right], stages)


def test_every_right_of_every_layout_is_in_the_table() -> None:
    assert rights_of("leases") == LEASES.keys()
