"""Checks of the Sentinels that lead to Redis, and of what a failover would lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from cli.doctor.finding import Finding, fail, ok, warn
from engine.event import Json
from engine.log.sentinels import Sentinels, masters_of
from engine.settings import variable

SUBJECT = "redis sentinels"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one Sentinel answers."""

    place: str
    """host:port of the Sentinel."""
    masters: dict[str, dict[str, Json]] = field(default_factory=dict)
    """The masters that the Sentinel watches, by name."""
    quorum: str = ""
    """Why the Sentinels could not agree on a failover now; empty when they could."""
    problem: Exception | None = None
    """Why the Sentinel does not answer."""


def ask(where: Sentinels) -> list[Answer]:
    """Return the answer of every Sentinel."""
    answers = []
    for host, port in where.hosts:
        place = f"{host}:{port}"
        with redis.Redis(host, port, **where.own_options) as sentinel:
            try:
                masters = masters_of(sentinel)
                quorum = _quorum(sentinel, where.master) if where.master in masters else ""
                answers.append(Answer(place=place, masters=masters, quorum=quorum))
            except (redis.RedisError, OSError) as error:
                answers.append(Answer(place=place, problem=error))
    return answers


def _quorum(sentinel: redis.Redis, master: str) -> str:
    try:
        sentinel.sentinel_ckquorum(master)
    except redis.ResponseError as error:
        return str(error)
    return ""


def judge(where: Sentinels, answers: Sequence[Answer]) -> tuple[str, list[Finding]]:
    """Return host:port of the master (empty when no Sentinel leads to one) and the findings."""
    silent = [answer for answer in answers if answer.problem is not None]
    heard = [answer for answer in answers if answer.problem is None]
    if not heard:
        return "", [fail(SUBJECT, f"no Sentinel answers: {_reasons(silent)}", _fix(silent))]
    findings = []
    if silent:
        detail = f"{len(silent)} of {len(answers)} Sentinels do not answer: {_reasons(silent)}"
        findings.append(warn(SUBJECT, detail, _fix(silent)))
    states = [answer.masters[where.master] for answer in heard if where.master in answer.masters]
    if not states:
        known = ", ".join(sorted({name for answer in heard for name in answer.masters})) or "none"
        detail = f"the Sentinels know no master {where.master!r}; they know: {known}"
        return "", [*findings, fail(SUBJECT, detail, f"correct {variable('redis_sentinel_master')}")]
    if hindrance := next((answer.quorum for answer in heard if answer.quorum), ""):
        findings.append(warn(SUBJECT, f"no failover is possible: {hindrance}", "start the other Sentinels"))
    up = [f"{state['ip']}:{state['port']}" for state in states if not (state["is_sdown"] or state["is_odown"])]
    if not up:
        detail = (
            f"the master {where.master!r} is down ({states[0]['ip']}:{states[0]['port']}), and has no successor yet"
        )
        return "", [*findings, fail(SUBJECT, detail, "wait for the failover; if there is none, start that server")]
    if len(set(up)) > 1:
        detail = f"the Sentinels disagree on where the master {where.master!r} is: {', '.join(sorted(set(up)))}"
        fix = "if a failover is in progress, wait; otherwise repair the network between the Sentinels"
        findings.append(warn(SUBJECT, detail, fix))
    if not findings:
        findings.append(ok(SUBJECT, f"{len(heard)} Sentinels answer: {where.master} is at {up[0]}, and can fail over"))
    return up[0], findings


def _reasons(silent: Sequence[Answer]) -> str:
    """Return why the Sentinels do not answer; Sentinels with the same reason together."""
    places: dict[str, list[str]] = {}
    for answer in silent:
        places.setdefault(str(answer.problem), []).append(answer.place)
    return "; ".join(f"{', '.join(some)}: {reason}" for reason, some in places.items())


def _fix(silent: Sequence[Answer]) -> str:
    if any(isinstance(answer.problem, redis.AuthenticationError) for answer in silent):
        return f"correct {variable('redis_sentinel_password')}, the password of the Sentinels themselves"
    return f"start the Sentinels, or correct {variable('redis_url')}"


def check_replicas(info: Mapping[str, Json]) -> Iterator[Finding]:
    """Yield what is lost when the master is lost. `info` is what the master answers to INFO."""
    if not info.get("connected_slaves"):
        yield warn("redis replicas", "the master has no replica: no server can take its place", "start a replica")
    elif "min_slaves_good_slaves" not in info:
        yield warn(
            "redis replicas",
            "a master that is cut off, or replaced, still accepts events; those events are lost",
            "set `min-replicas-to-write 1` and `min-replicas-max-lag 10` on every server",
        )
    else:
        count = info["connected_slaves"]
        yield ok("redis replicas", f"{count} connected; the master accepts no events without a replica")
