"""Tables for people, JSON for machines, errors on stderr; what a command ends with when it cannot go on.

In a terminal the last column folds, on words, into what room is left. Anywhere else a row is a line, however long, so
that `grep`, `head` and the like see whole rows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import wraps
from itertools import repeat
from typing import IO, Any, ParamSpec, TypeVar

import orjson
import redis
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from engine.errors import AgentplaneError, LogUnavailable
from engine.settings import variable

P = ParamSpec("P")
R = TypeVar("R")

FAILED, UNABLE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
"""Exit codes: something is not well; the command could not be carried out; what a shell says of SIGINT and SIGPIPE."""

WIDE = 110
"""Columns of a terminal that has room for everything."""
NARROWEST = 24
"""Columns that the last column of a table gets at least."""


class Tolerant(Console):
    """A console that raises BrokenPipeError instead of ending the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = Tolerant(highlight=False, soft_wrap=True)
errors = Tolerant(stderr=True, highlight=False, soft_wrap=True)


def json_line(value: Any) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say something beside the answer, on stderr."""
    errors.print(Text(text, style="dim"))


class Table:
    """Columns of at least some widths, printed row by row, so that rows may come one at a time."""

    def __init__(self, headings: Sequence[str], widths: Sequence[int] | None = None) -> None:
        self._widths = [max(len(column), width) for column, width in zip(headings, widths or repeat(0), strict=False)]
        self.add([Text(column, style="bold") for column in headings])

    def add(self, row: Sequence[str | Text]) -> None:
        """Print one row."""
        cells = [Text(cell) if isinstance(cell, str) else cell for cell in row]
        line = Text()
        for cell, width in zip(cells[:-1], self._widths[:-1], strict=True):
            line.append_text(cell).append(" " * max(2, width - cell.cell_len + 2))
        indent = " " * line.cell_len
        for part in _folded(cells[-1], line.cell_len):
            line.append_text(part).rstrip()
            console.print(line)
            line = Text(indent)


def _folded(cell: Text, used: int) -> list[Text]:
    """Return the lines of a last cell that begins after `used` columns."""
    width = columns()
    if width is None or used + cell.cell_len <= width:
        return [cell]
    return [Text(part, style=cell.style) for part in fold(cell.plain, max(width - used, NARROWEST))]


def fold(text: str, room: int) -> list[str]:
    """Return `text` in lines of at most `room` columns, broken between words; within one that is longer than a line."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) > room:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
        while cell_len(lines[-1]) > room:
            first, rest = lines[-1][:room], lines[-1][room:]
            lines[-1:] = [first, rest]
    return lines


def columns() -> int | None:
    """Return the columns to fold to; None where nobody looks, unless COLUMNS says otherwise."""
    wanted = os.environ.get("COLUMNS", "")
    return int(wanted) if wanted.isdigit() else console.width if console.is_terminal else None


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table as wide as its rows need."""
    kept = list(rows)
    made = Table(headings, widths(headings, kept))
    for row in kept:
        made.add(row)


def widths(headings: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> list[int]:
    """Return the widest cell of every column."""
    return [max((cell_len(str(row[at])) for row in rows), default=0) for at in range(len(headings))]


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
    """Let a command end with one clear line, and the exit code that says so, where it cannot go on."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                if sys.stdout is not None:  # closed by the shell: >&-
                    sys.stdout.flush()  # a full disk, or a reader who left, is told of here, not at the very end
        except LogUnavailable as error:
            _say(f"{error}; start Redis, or correct {variable('redis_url')}")
        except AgentplaneError as error:
            _say(*str(error).splitlines())
        except BrokenPipeError:
            # Whoever read has seen enough. What is still buffered must not fail again when Python ends.
            _silence(sys.stdout)
            raise typer.Exit(BROKEN_PIPE) from None
        except OSError as error:
            _silence(sys.stdout)
            _say(f"{error.filename or 'output'}: {error.strerror or error}")
        except redis.RedisError as error:
            _say(f"Redis refuses: {error}; check {variable('redis_url')} and what its user may do")
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(UNABLE) from None

    return run


def _say(*problems: str) -> None:
    for problem in problems or ("failed without saying why",):
        errors.print(Text.assemble(("error", "bold red"), f": {problem}"))


def _silence(stream: IO[str]) -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return
