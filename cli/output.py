"""Tables for people, JSON for machines, errors on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.errors import AgentplaneError

P = ParamSpec("P")
R = TypeVar("R")

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

FAILED, UNABLE = 1, 2
"""Exit codes: something is not well; the command could not be carried out."""


def json_line(value: Any) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table; the last column takes what room is left and folds."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        last = column == columns[-1]
        made.add_column(column, no_wrap=not last, overflow="fold")
    for row in rows:
        made.add_row(*row)
    console.print(made)


def age(since: datetime | None) -> str:
    """Return how long ago something was, as kubectl says it: 12s, 5m, 3h, 2d."""
    if since is None:
        return ""
    seconds = int((datetime.now(UTC) - since).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def reporting(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command end with 2 and one clear line where the engine says why it cannot go on."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except AgentplaneError as error:
            errors.print(f"[bold red]error[/]: {type(error).__name__}", end=": ")
            errors.print(str(error), markup=False, soft_wrap=True)
            raise typer.Exit(UNABLE) from None

    return run
