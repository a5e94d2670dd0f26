"""Runs every check and prints what it found: each check is ok, warn, fail or skip, with a fix.

A check is a function from the settings to findings, and changes nothing. An engine error that a check raises is
a failure of that check; the message of the error names the thing and the fix.

Where the settings name a process (the chart sets AGENTPLANE_PROCESS in each pod), only the checks that this process
needs are run, because its service account may do nothing else. Otherwise, for example on a laptop, all checks are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace

import redis
from rich.text import Text

from cli.doctor.cluster import check_cluster
from cli.doctor.control_plane import check_control_plane, check_smith
from cli.doctor.finding import Finding, Level, fail, failure, ok, skip, warn
from cli.doctor.hostname import check_hostname
from cli.doctor.redis import check_redis
from cli.doctor.workers import check_workers
from cli.output import FAILED, columns, console, fold, json_line
from engine import bootstrap
from engine.control_plane.network_policy import may_forbid
from engine.errors import AgentplaneError, SettingsError
from engine.settings import Settings, unknown_variables

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
"""Subject, check, and the processes that need what it checks; causes come before their consequences."""

DEPENDENT: Mapping[str, tuple[str, ...]] = {"control plane": ("listener",), "cluster": ("permissions", "lease")}
"""Check → subjects that it did not come to when an error ended it."""

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
    """Print a finding, and its fix on lines of its own, folded to the terminal."""
    first, *more = _lines(f"{finding.subject}: {finding.detail}")
    console.print(Text.assemble((f"{finding.level:<5}", STYLES[finding.level]), first))
    for line in more:
        console.print(Text(f"     {line}"))
    for number, line in enumerate(_lines(finding.fix) if finding.fix else ()):
        console.print(Text(f"     {'  ' if number else '→ '}{line}", style="bold"))


def _lines(text: str) -> list[str]:
    text = " ".join(text.split())
    width = columns()
    return [text] if width is None else fold(text, max(width - 7, 20))


def examine() -> Iterator[Finding]:
    """Yield the findings of every check, in the order of CHECKS; the settings come first."""
    yield from check_variables()
    try:
        settings = Settings.load()
        if settings.operator_enabled:
            bootstrap.operator_config(settings)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield failure("settings", line)
        yield skip("everything else", "not checked; correct the settings first")
        return
    yield ok("settings", _settings(settings))
    if settings.network_policy:
        yield ok("network policy", f"NetworkPolicy {settings.network_policy} limits the connections of this process")
    for subject, check, processes in CHECKS:
        if not settings.may_be(*processes):
            continue
        checked: set[str] = set()
        try:
            for finding in check(settings):
                checked.add(finding.subject)
                yield finding
        except AgentplaneError as error:
            opened = "networkPolicy.apiServerPorts" if subject == "cluster" else ""
            forbidden = may_forbid(error, settings.network_policy, opened) if opened else ""
            found = failure(subject, str(error))
            yield replace(found, detail=f"{found.detail}{forbidden}")
            for dependent in [one for one in DEPENDENT.get(subject, ()) if one not in checked]:
                yield skip(dependent, f"not checked, because the check of the {subject} failed")
        except (redis.RedisError, OSError) as error:
            yield fail(subject, f"{type(error).__name__}: {error}")


def _settings(settings: Settings) -> str:
    given = sum(described.given for described in settings.describe())
    count = f"{given} setting{'' if given == 1 else 's'} given, the rest default"
    if settings.process:
        return f"{count}; checking what the {settings.process} process needs"
    components = [name for name in ("listener", "operator") if getattr(settings, f"{name}_enabled")]
    return f"{count}; {' and '.join(components) or 'no component'} enabled"


def check_variables() -> Iterator[Finding]:
    """Yield a warning for every environment variable that looks like a setting and is none: all else ignores it."""
    for name, near in unknown_variables():
        fix = f"rename it to {near}" if near else "remove it, or look for the right name in docs/settings.md"
        yield warn("settings", f"{name} is set, but there is no such setting", fix)
