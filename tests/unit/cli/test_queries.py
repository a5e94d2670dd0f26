"""Questions to the log, answered from events alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.errors import FutureEvent
from engine.event import Event
from engine.listener.config import ListenerConfig
from engine.listener.events import (
    DeletionPending,
    DeletionRequested,
    DeletionStarted,
    DeploymentDeleted,
    DeploymentRegistered,
    HealthChecked,
    LgpApplied,
    Paused,
    RevisionDeployed,
    RevisionFailed,
    RevisionRequested,
    RolloutObserved,
    SecretsApplied,
)
from engine.listener.machine import ListenerMachine
from engine.log.memory import MemoryLog
from engine.names import deployment_stream
from engine.queries import (
    AmbiguousDeployment,
    DeploymentSummary,
    UnknownDeployment,
    data_plane_states,
    deployments,
    find,
)
from engine.runtime.backoff import ActDeferred
from engine.runtime.fold import Fold

HELLO = "97e32883-8b48-4b1c-8bc8-eb08c3462c00"
DEFERRED = ActDeferred(
    act="ApplySecrets", attempt=2, reason="503", retry_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=7)
)
DEPLOYED = RevisionDeployed(revision_id="r1")


def log_of(*events: Event, deployment: str = HELLO, name: str = "hello", log: MemoryLog | None = None) -> MemoryLog:
    """Return a log with a deployment that asked for revision r1, and then `events`."""
    log = log or MemoryLog()
    first: Sequence[Event] = (
        DeploymentRegistered(
            deployment_id=deployment, name=name, workspace_id="w", listener_id="l", namespace="agents", lgp=f"{name}-x"
        ),
        RevisionRequested(
            revision_id="r1",
            image="i",
            resource_spec={},
            secret_names=(),
            secrets_digest="s",
            content_digest="c",
        ),
    )
    log.append(deployment_stream(deployment), 0, [*first, *events], actor="test")
    return log


def the_one(log: MemoryLog) -> DeploymentSummary:
    (view,) = deployments(log, deleted=True)
    return view


def rollout(**changes: Any) -> RolloutObserved:
    seen = {"generation": 1, "available": False, "progressing": True, "database_ready": True}
    return RolloutObserved.model_validate({**seen, **changes})


def placed() -> tuple[Event, ...]:
    fingerprint = {"uid": "u", "generation": 1, "fields": "f"}
    applied = {"revision_id": "r1", "manifest_digest": "m", "fingerprint": fingerprint, "created": True}
    return SecretsApplied(revision_id="r1", secret="s", digest="s"), LgpApplied.model_validate(applied)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((), ""),
        ((DEFERRED,), "ApplySecrets fails (attempt 2): 503"),
        (
            (
                DEFERRED,
                SecretsApplied(revision_id="r1", secret="s", digest="s"),
            ),
            "",
        ),
        ((*placed(), rollout(reason="RollingOut", message="1 of 2")), "RollingOut: 1 of 2"),
        (
            (
                *placed(),
                rollout(available=True, progressing=False),
                HealthChecked(revision_id="r1", ok=False, url="http://x/ok", detail="404", attempt=3),
            ),
            "health check 3 failed: 404",
        ),
        (
            (*placed(), rollout(available=True, warning="KindNotServed: install KEDA"), DEPLOYED),
            "KindNotServed: install KEDA",
        ),
        ((RevisionFailed(revision_id="r1", reason="Why", message="because"),), "Why: because"),
        (
            (
                *placed(),
                DeletionRequested(reason="AWAITING_DELETE"),
                DeletionStarted(existed=True),
                DeletionPending(finalizers=("keep/me",)),
            ),
            "AWAITING_DELETE; its LGP waits for keep/me",
        ),
    ],
)  # fmt: skip
def test_why_things_are_as_they_are(events: tuple[Event, ...], reason: str) -> None:
    assert the_one(log_of(*events)).reason == reason


def test_the_health_check_counts_attempts_as_the_listener_does() -> None:
    checks = [HealthChecked(revision_id="r1", ok=False, url="u", detail=str(n), attempt=n) for n in range(1, 4)]

    assert the_one(log_of(*placed(), rollout(available=True), *checks)).reason == "health check 3 failed: 3"


def test_a_trimmed_stream_begins_with_its_snapshot() -> None:
    log = log_of(*placed(), rollout(available=True), DEPLOYED, Paused(by="ada"))
    config = ListenerConfig(listener_id="l", workspace_id="w", namespaces=("agents",), smith_url="http://smith")
    stream = deployment_stream(HELLO)
    whole = the_one(log)
    fold = Fold(ListenerMachine(config), log, stream)
    fold.catch_up()
    fold.save(every=1)
    log.trim(stream, 4)

    assert the_one(log) == whole
    assert find(log, "hello") == whole


def test_a_trimmed_stream_without_a_snapshot_says_so() -> None:
    class Forgetful(MemoryLog):
        def load_snapshot(self, stream: str) -> None:
            return None

    log = Forgetful()
    log_of(*placed(), log=log)
    fold = Fold(
        ListenerMachine(
            ListenerConfig(listener_id="l", workspace_id="w", namespaces=("agents",), smith_url="http://s")
        ),
        log,
        deployment_stream(HELLO),
    )
    fold.catch_up()
    fold.save(every=1)
    log.trim(deployment_stream(HELLO), 2)

    view = the_one(log)

    assert view.failed
    assert view.name == HELLO
    assert "has no snapshot of what came before" in view.reason


def test_the_newest_live_deployment_of_a_name_is_found() -> None:
    log = log_of(DeletionRequested(reason="gone"), DeploymentDeleted())
    log_of(deployment="b", log=log)

    assert find(log, "hello").id == "b"
    assert find(log, HELLO).deleted
    assert find(log, "hello", one=True).id == "b"


def test_of_two_live_ones_neither_is_the_one() -> None:
    log = log_of()
    log_of(deployment="b", log=log)

    with pytest.raises(AmbiguousDeployment, match=HELLO):
        find(log, "hello", one=True)
    assert find(log, "b", one=True).id == "b"


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownDeployment, match=r"'nobody' \(live ones: hello\)"):
        find(log_of(), "nobody")


def test_a_data_plane_of_the_future_is_not_guessed_at() -> None:
    class Unheard(Event):
        pass

    log = MemoryLog()
    log.append("dataplane/x", 0, [Unheard()], actor="test")

    with pytest.raises(FutureEvent, match="upgrade"):
        data_plane_states(log)
