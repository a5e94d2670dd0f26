"""`agentplane doctor`: is everything there that the data plane needs? Each line ok, warn or fail, with the mend.

A check is a function from the settings to findings. What it raises as an engine error is its failure: those messages
name the thing and the mend already. Nothing is written anywhere.

Where the settings say which process they are of, as in the chart's pods, only that is checked which this process needs:
its account may do nothing else. Elsewhere, as on a laptop, everything is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import redis
from rich.text import Text

from cli.cluster_checks import check_cluster
from cli.findings import Finding, Level, fail, ok, skip, warn
from cli.output import FAILED, columns, console, fold, json_line
from cli.peer_checks import check_control_plane, check_hostname, check_redis, check_smith
from cli.worker_checks import check_workers
from engine import bootstrap
from engine.control_plane.network_policy import may_forbid
from engine.errors import AgentplaneError, SettingsError
from engine.settings import Settings, unknown_variables

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red", Level.SKIP: "dim"}


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
        yield skip("everything else", "not looked at: correct the settings first")
        return
    given = sum(described.given for described in settings.describe())
    yield ok("settings", f"{given} given, the rest at their defaults; {_whose(settings)}")
    if settings.network_policy:
        yield ok("network policy", f"{settings.network_policy} limits where this process connects")
    for subject, check, processes in CHECKS:
        if not settings.may_be(*processes):
            continue
        try:
            yield from check(settings)
        except AgentplaneError as error:
            opened = "networkPolicy.apiServerPorts" if subject == "cluster" else ""
            yield fail(subject, f"{error}{may_forbid(error, settings.network_policy, opened) if opened else ''}")
        except (redis.RedisError, OSError) as error:
            yield fail(subject, f"{type(error).__name__}: {error}")


def _whose(settings: Settings) -> str:
    if settings.process:
        return f"checked is what the {settings.process} needs"
    components = [name for name in ("listener", "operator") if getattr(settings, f"{name}_enabled")]
    return f"runs here: {' and '.join(components) or 'no component'}"


def check_variables() -> Iterator[Finding]:
    """Variables that look like settings and are none, which nothing else would ever tell."""
    for name, near in unknown_variables():
        mend = f"rename it to {near}" if near else "remove it, or see the documentation for its name"
        yield warn("settings", f"{name} is set, but there is no such setting", mend)


Check = Callable[[Settings], Iterator[Finding]]

EVERY = ("listener", "operator", "watcher", "beat", "flower")

CHECKS: tuple[tuple[str, Check, tuple[str, ...]], ...] = (
    ("redis", check_redis, EVERY),
    ("workers", check_workers, EVERY),
    ("control plane", check_control_plane, ("listener",)),
    ("langsmith", check_smith, ("listener",)),
    ("cluster", check_cluster, ("listener", "operator", "watcher")),
    ("hostname", check_hostname, ("listener",)),
)
"""Subject, check, and the processes that need what it checks."""
