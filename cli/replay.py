"""`agentplane replay`: decides every event of a log again, and compares the result with what the log recorded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from cli.export import naming
from cli.log import event_log
from cli.output import FAILED, console, counted, errors, json_line
from engine.errors import AgentplaneError
from engine.log.contract import EventLog
from engine.log.export import import_log
from engine.log.memory import MemoryLog
from engine.queries import everything
from engine.replay import Replay, Replayer


class TrimmedLog(AgentplaneError):
    """The log no longer has all of its events."""


def replay(file: Path | None, *, transcript: Path | None, through: int | None, json: bool) -> int:
    """Replay an exported log, or (None) the installation's own log; return the exit code. Raises TrimmedLog."""
    with naming(file) if file is not None else nullcontext():
        log: EventLog = event_log() if file is None else _loaded(file)
        _refuse_trimmed(log.trimmed())
        replayer = Replayer()
        for record in everything(log, through):
            replayer.feed(record)
        result = replayer.finish()
    if transcript is not None:
        transcript.write_bytes(b"".join(entry + b"\n" for entry in result.transcript))
    if json:
        json_line(
            {
                "events": result.events,
                "streams": result.streams,
                "manifests": result.manifests,
                "checked": result.checked,
                "digest": result.digest,
                "divergences": [asdict(divergence) for divergence in result.divergences],
            }
        )
    else:
        _print(result)
    return FAILED if result.divergences else 0


def _loaded(file: Path) -> MemoryLog:
    log = MemoryLog()
    with file.open("rb") as lines:
        import_log(log, lines)
    return log


def _refuse_trimmed(trimmed: Mapping[str, int]) -> None:
    """Raise TrimmedLog if the beginning of a stream is gone: a replay starts with the first event."""
    if trimmed:
        stream, version = sorted(trimmed.items())[0]
        raise TrimmedLog(
            f"{counted(len(trimmed), 'stream')} of this log are trimmed ({stream} through version {version}); write "
            "the archives and then an export into one file, and replay that file"
        )


def _print(result: Replay) -> None:
    for divergence in result.divergences:
        errors.print(Text(f"{divergence.stream} version {divergence.version}: {divergence.problem}"))
    count = len(result.divergences)
    agreement = counted(count, "divergence") if count else "all agree with the log"
    console.print(
        f"replayed {counted(result.events, 'event')} ({counted(result.streams, 'deployment or LGP stream')}, "
        "and the data plane's own) and compared "
        f"{result.checked} acts and manifests: {agreement}; {counted(result.manifests, 'manifest')}, "
        f"transcript {result.digest}",
        style="red" if count else None,
    )
