"""The report of a benchmark: its figures as values, as tables for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number."""

    what: str
    value: float
    unit: str = ""
    budget: float | None = None
    """The largest value that the design allows; None without a budget."""
    note: str = ""

    @property
    def held(self) -> bool:
        """Whether the value is within its budget; True without a budget."""
        return self.budget is None or self.value <= self.budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """A table with details of the figures."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(slots=True, kw_only=True)
class Report:
    """The result of one benchmark."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    skipped: str = ""
    """Why the benchmark did not run; empty when it ran."""
    load: tuple[float, float] = (0.0, 0.0)
    """Load average (1 minute) of the machine before and after; above the number of cores, times are too long."""

    def add(self, what: str, value: float, unit: str = "", *, budget: float | None = None, note: str = "") -> None:
        self.figures.append(Figure(what=what, value=value, unit=unit, budget=budget, note=note))

    @property
    def held(self) -> bool:
        return all(figure.held for figure in self.figures)

    def figure(self, what: str) -> Figure:
        """Return the figure of that name. Raises KeyError."""
        for figure in self.figures:
            if figure.what == what:
                return figure
        raise KeyError(f"{self.name} has no figure {what!r}")

    def json(self) -> dict[str, Any]:
        figures = [{**asdict(figure), "held": figure.held} for figure in self.figures]
        details = [
            {"title": detail.title, "rows": [dict(zip(detail.columns, row, strict=True)) for row in detail.rows]}
            for detail in self.details
        ]
        shown = {"name": self.name, "title": self.title, "load": list(self.load)}
        return {**shown, "skipped": self.skipped, "figures": figures, "details": details}

    def show(self, console: Console) -> None:
        console.print()
        if self.skipped:
            console.print(f"[bold]{self.name}[/]: [yellow]skipped[/]: {self.skipped}")
            return
        before, after = self.load
        table = Table(title=f"{self.name}: {self.title}", title_justify="left", caption_justify="left")
        table.caption = f"load average before {before:.1f}, after {after:.1f}, on {os.cpu_count()} cores"
        table.add_column("figure", overflow="fold")
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("budget", justify="right", no_wrap=True)
        table.add_column("note", overflow="fold")
        for figure in self.figures:
            table.add_row(figure.what, _number(figure.value, figure.unit), _budget(figure), figure.note)
        console.print(table)
        for detail in self.details:
            below = Table(title=detail.title, title_justify="left")
            for index, column in enumerate(detail.columns):
                below.add_column(column, justify="right" if index else "left", no_wrap=not index, overflow="fold")
            for row in detail.rows:
                below.add_row(*row)
            console.print(below)


def _number(value: float, unit: str) -> str:
    shown = f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"
    return f"{shown} {unit}".rstrip()


def _budget(figure: Figure) -> str:
    if figure.budget is None:
        return ""
    word = "[green]held[/]" if figure.held else "[red]missed[/]"
    return f"≤ {_number(figure.budget, figure.unit)} {word}"


def load_average() -> float:
    """Return the load average of the last minute, 0 when the system does not report it."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def machine() -> dict[str, Any]:
    """Return a description of the machine: cores, operating system, Python version."""
    return {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of `values` lie, interpolated. Raises ValueError without values."""
    if not values:
        raise ValueError("a quantile of no values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
