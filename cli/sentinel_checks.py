"""Checks of the Sentinels that lead to Redis, and of what a failover would find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from cli.findings import Finding, fail, ok, warn
from engine.log.sentinels import Sentinels, masters_of
from engine.settings import variable

SUBJECT = "redis sentinels"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one Sentinel says."""

    place: str
    """Its host:port."""
    masters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name."""
    quorum: str = ""
    """Why the Sentinels could not agree on a failover now, if they could not."""
    problem: Exception | None = None
    """Why it says nothing."""


def ask(where: Sentinels) -> list[Answer]:
    """Ask every Sentinel."""
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
    """Return host:port of the master, empty when nobody leads to one, and what there is to say."""
    silent = [answer for answer in answers if answer.problem is not None]
    said = [answer for answer in answers if answer.problem is None]
    if not said:
        return "", [fail(SUBJECT, f"none can be asked for the master: {_reasons(silent)}", _mend(silent))]
    findings = []
    if silent:
        findings.append(
            warn(SUBJECT, f"{len(silent)} of {len(answers)} cannot be asked: {_reasons(silent)}", _mend(silent))
        )
    states = [answer.masters[where.master] for answer in said if where.master in answer.masters]
    if not states:
        known = ", ".join(sorted({name for answer in said for name in answer.masters})) or "none"
        detail = f"they know no master {where.master!r}; known: {known}"
        return "", [*findings, fail(SUBJECT, detail, f"correct {variable('redis_sentinel_master')}")]
    if hindrance := next((answer.quorum for answer in said if answer.quorum), ""):
        findings.append(warn(SUBJECT, f"no failover is possible: {hindrance}", "start the other Sentinels"))
    up = [f"{state['ip']}:{state['port']}" for state in states if not (state["is_sdown"] or state["is_odown"])]
    if not up:
        detail = (
            f"the master {where.master!r} is down ({states[0]['ip']}:{states[0]['port']}), and has no successor yet"
        )
        return "", [*findings, fail(SUBJECT, detail, "wait for the failover; where none comes, start that server")]
    if len(set(up)) > 1:
        detail = f"they disagree where the master {where.master!r} is: {', '.join(sorted(set(up)))}"
        findings.append(warn(SUBJECT, detail, "wait, if a failover is going on; else mend the network between them"))
    if not findings:
        findings.append(ok(SUBJECT, f"{len(said)} asked: {where.master} is at {up[0]}, and can fail over"))
    return up[0], findings


def _reasons(silent: Sequence[Answer]) -> str:
    """Say why those who say nothing do not; one reason once."""
    places: dict[str, list[str]] = {}
    for answer in silent:
        places.setdefault(str(answer.problem), []).append(answer.place)
    return "; ".join(f"{', '.join(some)}: {reason}" for reason, some in places.items())


def _mend(silent: Sequence[Answer]) -> str:
    if any(isinstance(answer.problem, redis.AuthenticationError) for answer in silent):
        return f"correct {variable('redis_sentinel_password')}, which is the Sentinels' own"
    return f"start them, or correct {variable('redis_url')}"


def check_replicas(told: dict[str, Any]) -> Iterator[Finding]:
    """What is lost when the master is: `told` is its INFO."""
    if not told.get("connected_slaves"):
        yield warn("redis replicas", "none follows the master: nothing can take its place", "start one")
    elif "min_slaves_good_slaves" not in told:
        yield warn(
            "redis replicas",
            "a master that is cut off, or replaced, goes on taking events, which are lost",
            "set `min-replicas-to-write 1` and `min-replicas-max-lag 10` on every server",
        )
    else:
        yield ok("redis replicas", f"{told['connected_slaves']} follow; the master takes no events without them")
