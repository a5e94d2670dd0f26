"""Tables that fit their terminal, ages, errors and exit codes."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta

import pytest
import redis
import typer

from cli import output
from cli.output import BROKEN_PIPE, INTERRUPTED, UNABLE, age, fold, reporting, table
from engine.errors import LogUnavailable, SettingsError


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three", ["one two", "three"]),
        ("exactly8", ["exactly8"]),
        ("a verylongword b", ["a", "verylong", "word b"]),
        ("", [""]),
    ],
)
def test_text_folds_between_words(text: str, lines: list[str]) -> None:
    assert fold(text, 8) == lines


def test_a_row_is_one_line_outside_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)

    table(("NAME", "WHAT"), [("a", "word " * 100), ("longer", "x")])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NAME    WHAT"
    assert lines[1] == f"a       {'word ' * 100}".rstrip()
    assert lines[2] == "longer  x"


def test_the_last_column_folds_into_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    table(("NAME", "WHAT"), [("hello", "word " * 12)])

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert lines[2].startswith("       word")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d"), (-5, "0s")]
)
def test_ages_are_printed_as_by_kubectl(seconds: float, expected: str) -> None:
    assert age(datetime.now(UTC) - timedelta(seconds=seconds + 0.5 if seconds > 0 else seconds)) == expected


def test_nothing_has_no_age() -> None:
    assert age(None) == ""


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        (SettingsError("one\ntwo"), UNABLE, "error: one\nerror: two\n"),
        (LogUnavailable("refused."), UNABLE, "error: refused. Start Redis, or correct AGENTPLANE_REDIS_URL.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "export.jsonl"),
            UNABLE,
            "error: export.jsonl: No space left on device\n",
        ),
        (
            redis.ResponseError("NOPERM no keys"),
            UNABLE,
            "error: Redis refuses a command: NOPERM no keys; "
            "check AGENTPLANE_REDIS_URL and the permissions of its user\n",
        ),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_a_command_that_cannot_go_on_says_why(
    raised: BaseException, code: int, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTPLANE_REDIS_URL", "redis://127.0.0.1:1/0")

    @reporting
    def command() -> None:
        raise raised

    with pytest.raises(typer.Exit) as ended:
        command()

    assert ended.value.exit_code == code
    assert capsys.readouterr().err == expected


def test_a_redis_url_that_is_not_set_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTPLANE_REDIS_URL", raising=False)

    @reporting
    def command() -> None:
        raise LogUnavailable("no answer")

    with pytest.raises(typer.Exit):
        command()

    hint = "AGENTPLANE_REDIS_URL is not set; set it, or load your environment file."
    assert capsys.readouterr().err == f"error: no answer. {hint}\n"


def test_a_closed_pipe_is_no_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_silence", lambda stream: None)

    @reporting
    def command() -> None:
        raise BrokenPipeError

    with pytest.raises(typer.Exit) as ended:
        command()

    assert ended.value.exit_code == BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_a_mistake_of_ours_is_not_hidden() -> None:
    @reporting
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()
