"""A worker may die anywhere: one life of a deployment, told again with a crash at every single touch of the outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from engine.listener.poll import Poller
from engine.names import REVISION_LABEL, deployment_stream
from engine.replay import replay
from tests.support.clock import FakeClock
from tests.support.listener import DEPLOYMENT, LGP, LOCK_TTL, Crash, ListenerWorld, resource, status

STREAM = deployment_stream(DEPLOYMENT)
MOST_ROUNDS = 30


class Life:
    """A deployment from its first revision to its deletion, with workers that are replaced when they die."""

    def __init__(self, crash_at: int = 0) -> None:
        self.world = ListenerWorld(clock=FakeClock(tick=timedelta(microseconds=1)))
        self.world.record_configuration()
        self.world.moments.passed, self.world.moments.crash_at = 0, crash_at
        self.poller: Poller = self.world.poller()
        self.crashes = 0
        self.after_failure = ""
        """Revision that the LGP carried after the third had failed."""

    def tell(self) -> None:
        self._asked("r1", "sk-first")
        self._operator(available=True)
        self._asked("r2", "sk-second")
        self._operator(available=True)
        self._asked("r3", "sk-second")
        self._operator(available=False, reason="ImagePullBackOff")
        self.world.clock.move(2 * LOCK_TTL)
        self._settle()
        self.after_failure = self.world.cluster.objects[LGP]["metadata"]["labels"][REVISION_LABEL]
        self._asked("r4", "sk-fourth")
        self._asked("r5", "sk-fifth")
        self._operator(available=True)
        self._asked("r5", "sk-fifth", status="AWAITING_DELETE")
        self.world.clock.move(60)
        self._settle()

    def _asked(self, revision: str, secret: str, **changes: Any) -> None:
        raw = resource(revision, secrets=[{"name": "OPENAI_API_KEY", "value": secret}], **changes)
        before = self.world.control_plane.resources.get(DEPLOYMENT, raw)
        raw["source_config"]["custom_url"] = before["source_config"].get("custom_url")
        self.world.control_plane.resources[DEPLOYMENT] = raw
        self._settle()

    def _operator(self, **said: Any) -> None:
        lgp = self.world.cluster.objects[LGP]
        lgp["status"] = status(generation=lgp["metadata"]["generation"], **said)
        self._settle()

    def _settle(self) -> None:
        """Poll, advance and watch until nothing happens any more."""
        for _ in range(MOST_ROUNDS):
            before = (self.world.events.version(STREAM), self.crashes)
            self._surviving(lambda: self.poller.poll())
            self._surviving(lambda: self.world.advance())
            self._surviving(lambda: self.world.watch())
            now = (self.world.events.version(STREAM), self.crashes)
            if now == before and STREAM not in self.world.events.dirty():
                return
        raise AssertionError(f"never comes to rest: {self.world.types()[-10:]}")

    def _surviving(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except Crash:
            self.crashes += 1
            self.world.clock.move(40)  # until the locks of the dead run out
            self.poller = self.world.poller()

    # --- what counts in the end

    def objects(self) -> dict[str, Any]:
        found = copy.deepcopy({str(key): value for key, value in self.world.cluster.objects.items()})
        for value in found.values():
            for field in ("uid", "resourceVersion", "generation"):
                value["metadata"].pop(field)
        return found

    def reports(self) -> dict[str, list[str]]:
        """Subject → the statuses that it was reported to have, without repetitions."""
        told: dict[str, list[str]] = {}
        for subject, said in self.world.control_plane.reports:
            statuses = told.setdefault(subject, [])
            if not statuses or statuses[-1] != said:
                statuses.append(said)
        return told


def moments() -> int:
    life = Life()
    life.tell()
    return life.world.moments.passed


MOMENTS = moments()


def test_the_life_without_a_crash_says_what_happened() -> None:
    life = Life()
    life.tell()

    assert life.reports() == {
        "r1": ["AWAITING_DEPLOY", "DEPLOYING", "DEPLOYED"],
        "r2": ["AWAITING_DEPLOY", "DEPLOYING", "DEPLOYED"],
        "r3": ["AWAITING_DEPLOY", "DEPLOYING", "DEPLOY_FAILED"],
        "r4": ["AWAITING_DEPLOY", "DEPLOYING", "INTERRUPTED"],
        "r5": ["AWAITING_DEPLOY", "DEPLOYING", "DEPLOYED"],
        DEPLOYMENT: ["READY", "DELETED"],
    }
    assert life.after_failure == "r2"
    assert life.objects() == {}
    assert life.world.state().deleted
    assert MOMENTS > 100


@pytest.mark.parametrize("crash_at", range(1, MOMENTS + 1))
def test_a_crash_anywhere_changes_nothing_in_the_end(crash_at: int) -> None:
    without, life = UNDISTURBED, Life(crash_at)
    life.tell()

    assert life.crashes == 1
    assert life.after_failure == without.after_failure
    assert life.objects() == without.objects()
    assert life.reports() == without.reports()
    assert life.world.state().deleted
    assert life.world.control_plane.resources[DEPLOYMENT]["source_config"]["custom_url"] == (
        f"https://agents.example/lgp/{LGP.name}"
    )


@pytest.mark.parametrize("crash_at", range(1, MOMENTS + 1, 7))
def test_a_log_with_a_crash_replays(crash_at: int) -> None:
    life = Life(crash_at)
    life.tell()

    assert replay(life.world.events.read_all(limit=100_000)).divergences == []


def _undisturbed() -> Life:
    life = Life()
    life.tell()
    return life


UNDISTURBED = _undisturbed()
