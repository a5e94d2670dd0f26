"""Deferrals: which acts wait, until when, and in which order they are reported."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from engine.listener.acts import ApplyLgp, ApplySecrets
from engine.listener.events import SecretsApplied
from engine.runtime.deferral import NONE, Deferrals

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SOON = NOON + timedelta(seconds=10)


def deferred(act: str, deferrals: Deferrals = NONE) -> Deferrals:
    return deferrals.defer(act, "the API server is away", NOON, until=SOON)


def test_an_act_waits_until_its_time() -> None:
    deferrals = deferred("ApplyLgp")
    act = ApplyLgp(revision_id="1", manifest_digest="d")

    assert deferrals.holding(act, NOON) is not None
    assert deferrals.holding(act, SOON) is None
    assert deferrals.holding(ApplySecrets(revision_id="1"), NOON) is None


def test_refusals_in_a_row_wait_ever_longer_and_a_passing_failure_begins_anew() -> None:
    once = NONE.refuse("ApplyLgp", "no permission", NOON)
    twice = once.refuse("ApplyLgp", "no permission", NOON)
    mixed = deferred("ApplyLgp", twice).refuse("ApplyLgp", "no permission", NOON)

    waits = [deferrals.by_act["ApplyLgp"].until - NOON for deferrals in (once, twice, mixed)]
    assert waits == [timedelta(seconds=30), timedelta(seconds=60), timedelta(seconds=30)]
    assert twice.by_act["ApplyLgp"].attempts == 2


def test_an_act_keeps_its_place_when_its_failure_changes() -> None:
    deferrals = deferred("ApplyLgp").refuse("PruneSecrets", "no permission", NOON)
    deferrals = deferrals.refuse("ApplyLgp", "no permission", SOON)

    assert [act for act, _ in deferrals] == ["ApplyLgp", "PruneSecrets"]


def test_an_event_that_shows_success_ends_the_deferral_of_its_act_alone() -> None:
    deferrals = deferred("ApplySecrets", deferred("ApplyLgp"))
    event = SecretsApplied(revision_id="1", secret="s", digest="d")

    assert [act for act, _ in deferrals.ended_by(event, {SecretsApplied: ApplySecrets})] == ["ApplyLgp"]
