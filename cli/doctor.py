"""`agentplane doctor`: is everything there that the data plane needs? Each line ok, warn or fail, with the mend.

A check is a function from the settings to findings. What it raises as an engine error is its failure: those messages
name the thing and the mend already. Nothing is written anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import redis
from rich.text import Text

from cli.cluster_checks import check_cluster
from cli.findings import Finding, Level, fail, ok, warn
from cli.output import FAILED, columns, console, fold, json_line
from cli.peer_checks import check_control_plane, check_hostname, check_redis, check_smith
from cli.worker_checks import check_workers
from engine import bootstrap
from engine.adapters.network_policy import may_forbid
from engine.errors import AgentplaneError, SettingsError
from engine.settings import Settings, unknown_variables

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(*, json: bool) -> int:
    """Run every check and print what it finds; return the exit code."""
    found = []
    for finding in examine():
        found.append(finding.level)
        if json:
            json_line(asdict(finding))
        else:
            _print(finding)
    if not json:
        console.print(", ".join(f"{found.count(level)} {level}" for level in Level), style="dim")
    return FAILED if Level.FAIL in found else 0


def _print(finding: Finding) -> None:
    """Print a finding, and its mend on lines of its own, folded to the terminal."""
    first, *more = _lines(f"{finding.subject}: {finding.detail}")
    console.print(Text.assemble((f"{finding.level:<5}", STYLES[finding.level]), first))
    for line in more:
        console.print(Text(f"     {line}"))
    for number, line in enumerate(_lines(finding.mend) if finding.mend else ()):
        console.print(Text(f"     {'  ' if number else '→ '}{line}", style="bold"))


def _lines(text: str) -> list[str]:
    text = " ".join(text.split())
    width = columns()
    return [text] if width is None else fold(text, max(width - 7, 20))


def examine() -> Iterator[Finding]:
    """Yield what every check finds, in an order in which causes come before their consequences."""
    yield from check_variables()
    try:
        settings = Settings.load()
        if settings.operator_enabled:
            bootstrap.operator_config(settings)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield fail("settings", line)
        yield warn("everything else", "not looked at", "correct the settings first")
        return
    given = sum(described.given for described in settings.describe())
    halves = [name for name in ("listener", "operator") if getattr(settings, f"{name}_enabled")]
    yield ok("settings", f"{given} given, the rest at their defaults; runs here: {' and '.join(halves) or 'no half'}")
    if settings.network_policy:
        yield ok("network policy", f"{settings.network_policy} limits where this process connects")
    for subject, check in CHECKS:
        try:
            yield from check(settings)
        except AgentplaneError as error:
            opened = "networkPolicy.apiServerPorts" if subject == "cluster" else ""
            yield fail(subject, f"{error}{may_forbid(error, settings.network_policy, opened) if opened else ''}")
        except (redis.RedisError, OSError) as error:
            yield fail(subject, f"{type(error).__name__}: {error}")


def check_variables() -> Iterator[Finding]:
    """Variables that look like settings and are none, which nothing else would ever tell."""
    for name, near in unknown_variables():
        mend = f"rename it to {near}" if near else "remove it, or see the documentation for its name"
        yield warn("settings", f"{name} is set, but there is no such setting", mend)


Check = Callable[[Settings], Iterator[Finding]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("redis", check_redis),
    ("workers", check_workers),
    ("control plane", check_control_plane),
    ("langsmith", check_smith),
    ("cluster", check_cluster),
    ("hostname", check_hostname),
)
