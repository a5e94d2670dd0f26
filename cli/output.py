"""What commands print: tables for people, JSON for machines, errors on stderr with an exit code.

In a terminal the last column of a table is folded between words to the width that is left. Elsewhere every row is one
line, however long, so that `grep`, `head` and the like see whole rows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import wraps
from itertools import repeat
from typing import IO, ParamSpec, TypeVar

import orjson
import redis
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cli.log import redis_fix, settings
from engine.errors import AgentplaneError, LogUnavailable
from engine.settings import variable

P = ParamSpec("P")
R = TypeVar("R")

FAILED, UNABLE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
"""Exit codes: a check, deployment or replay failed; the command could not run; as shells report SIGINT and SIGPIPE."""

WIDE = 110
"""Width of a terminal, in characters, from which on tables are printed with all their columns."""
NARROWEST = 24
"""Least width of the last column of a table, in characters."""


class Tolerant(Console):
    """A console that raises BrokenPipeError instead of ending the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = Tolerant(highlight=False, soft_wrap=True)
errors = Tolerant(stderr=True, highlight=False, soft_wrap=True)


def json_line(value: object) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a remark on stderr, so that it is not part of the answer."""
    errors.print(Text(text, style="dim"))


class Table:
    """A table that is printed row by row, so that rows may come one at a time. `widths` are least widths."""

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
    """Return the lines of a last cell that begins after `used` characters."""
    width = columns()
    if width is None or used + cell.cell_len <= width:
        return [cell]
    return [Text(part, style=cell.style) for part in fold(cell.plain, max(width - used, NARROWEST))]


def fold(text: str, room: int) -> list[str]:
    """Return `text` in lines of at most `room` characters, broken between words; a longer word is broken itself."""
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
    """Return the width to fold to, in characters: COLUMNS, else that of the terminal; None if the output is none."""
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdigit() else console.width if console.is_terminal else None


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table with columns as wide as their widest cells."""
    every = list(rows)
    printed = Table(headings, widths(headings, every))
    for row in every:
        printed.add(row)


def widths(headings: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> list[int]:
    """Return the width of the widest cell of every column."""
    return [max((cell_len(str(row[at])) for row in rows), default=0) for at in range(len(headings))]


def age(since: datetime | None) -> str:
    """Return how long ago `since` was, as kubectl prints it: 12s, 5m, 3h, 2d."""
    if since is None:
        return ""
    seconds = int((datetime.now(UTC) - since).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def counted(count: int, noun: str) -> str:
    """Return `count` with its noun: 1 event, 2 events."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def reporting(command: Callable[P, R]) -> Callable[P, R]:
    """Return `command` with its errors turned into one clear line on stderr and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                if sys.stdout is not None:  # closed by the shell: >&-
                    sys.stdout.flush()  # a full disk, or a closed pipe, raises here and not when Python ends
        except LogUnavailable as error:
            fix = redis_fix(settings())
            _say(f"{str(error).rstrip('.')}. {fix[0].upper()}{fix[1:]}.")
        except AgentplaneError as error:
            _say(*str(error).splitlines())
        except BrokenPipeError:
            # The reader has closed the pipe. What is still buffered must not fail again when Python ends.
            _silence(sys.stdout)
            raise typer.Exit(BROKEN_PIPE) from None
        except OSError as error:
            _silence(sys.stdout)
            _say(f"{error.filename or 'output'}: {error.strerror or error}")
        except redis.RedisError as error:
            _say(f"Redis refuses a command: {error}; check {variable('redis_url')} and the permissions of its user")
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(UNABLE) from None

    return run


def _say(*problems: str) -> None:
    for problem in problems or ("the command failed without a message",):
        errors.print(Text.assemble(("error", "bold red"), f": {problem}"))


def _silence(stream: IO[str]) -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return
