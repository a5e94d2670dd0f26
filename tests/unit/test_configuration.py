"""Which configuration is in force while pods of two configurations run: no change is lost, whoever dies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as effort
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import BaseModel

from engine.dataplane import configuration
from engine.dataplane.configuration import ABSENCE, PRESENCE_EVERY, PRESENCE_TTL, Configurations
from engine.dataplane.events import DATA_PLANE_EVENTS, ConfigurationRecorded, ConfigurationSpread
from engine.dataplane.stream import DataPlaneStream
from engine.event import Event, Registry
from engine.log.memory import MemoryLog
from engine.ports import Manifest
from engine.runtime.advance import Advanced, advance
from engine.runtime.backoff import ActDeferred, ActRefused, Backoff
from engine.runtime.fold import Fold
from engine.runtime.machine import Act, Decision, Done
from engine.runtime.values import Value
from tests.support.clock import FakeClock
from tests.support.notes import NOON, ports

OWN = "dataplane/one"
APP, OTHER = "lgp/agents/app", "lgp/agents/other"


class Changed(Event):
    """There is something to paint."""


class Painted(Event):
    colour: str


@dataclass(frozen=True, kw_only=True)
class Wall(Value):
    colour: str = ""


class Paint(Act):
    colour: str


class Colours(BaseModel):
    colour: str


class Painter:
    """A component whose configuration is a colour: what it looks at gets that colour."""

    name = "operator"
    stream_prefix = "lgp/"
    events = Registry(Changed, Painted, ActDeferred, ActRefused)
    initial = Wall()

    def __init__(self, colour: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """`meanwhile` happens before each decision."""
        self.config = Colours(colour=colour)
        self._meanwhile = meanwhile

    def evolve(self, state: Wall, event: Event, at: datetime) -> Wall:
        return Wall(colour=event.colour) if isinstance(event, Painted) else state

    def decide(self, state: Wall, now: datetime) -> Decision:
        self._meanwhile()
        colour = self.config.colour
        return Done("painted") if state.colour == colour else Paint(colour=colour)

    def namespace(self, state: Wall) -> str:
        return "agents"

    def manifests(self, state: Wall) -> list[Manifest]:
        return []

    def digests(self, state: Wall) -> frozenset[str]:
        return frozenset()

    def perform(self, act: Act, state: Wall, ports: Any) -> Sequence[Event]:
        assert isinstance(act, Paint)
        return [Painted(colour=act.colour)]


class Worker:
    """A process that works on the streams of the component, under a colour; not started yet."""

    def __init__(self, site: Site, colour: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._site = site
        self._machine: Any = Painter(colour, meanwhile)
        self.colour = colour
        self.configurations = Configurations(site.events, DataPlaneStream(site.events, OWN), {"lgp/": self._machine})

    def start(self) -> Worker:
        self.configurations.record("operator")
        return self

    def keep(self) -> None:
        self.configurations.keep("operator", self._site.now)

    def outdated(self) -> bool:
        return self.configurations.outdated("operator")

    def advance(self, stream: str) -> Advanced:
        return advance(
            stream,
            self._machine,
            self._site.events,
            ports(self._site.clock),
            lock_ttl=30,
            backoff=Backoff(),
            outdated=self.outdated,
        )


class Site:
    """A log with walls to paint, and a clock."""

    def __init__(self, *streams: str) -> None:
        self.clock = FakeClock(NOON)
        self.now = 0.0
        self.events = MemoryLog(self.clock)
        for stream in streams:
            self.see(stream)

    def see(self, stream: str) -> None:
        self.events.append(stream, self.events.version(stream), [Changed()], actor="watcher")

    def colour(self, stream: str) -> str:
        fold: Fold[Wall] = Fold(Painter(""), self.events, stream)
        fold.catch_up()
        return fold.state.colour

    def pass_time(self, seconds: float, *keeping: Worker) -> None:
        """Let time pass in which the workers in `keeping` are there."""
        end = self.now + seconds
        while self.now < end:
            self.now += PRESENCE_EVERY
            self.clock.move(PRESENCE_EVERY)
            for worker in keeping:
                worker.keep()

    def recorded(self) -> list[str]:
        decoded = map(DATA_PLANE_EVENTS.decode, self.events.read(OWN))
        return [event.config["colour"] for event in decoded if isinstance(event, ConfigurationRecorded)]


def test_an_old_worker_leaves_a_stream_to_the_new_one_for_which_it_was_marked() -> None:
    site = Site(APP)
    old = Worker(site, "red").start()
    assert old.advance(APP).outcome == "acknowledged"

    new = Worker(site, "blue").start()

    assert (old.advance(APP).outcome, site.events.dirty()) == ("outdated", [APP])
    assert new.advance(APP).outcome == "acknowledged"
    assert (site.colour(APP), site.events.dirty()) == ("blue", [])


def test_an_old_worker_does_not_undo_what_the_new_one_did_when_there_is_news() -> None:
    site = Site(APP)
    old, new = Worker(site, "red").start(), Worker(site, "blue").start()
    new.advance(APP)
    site.see(APP)

    assert (old.advance(APP).outcome, site.colour(APP)) == ("outdated", "blue")
    assert site.events.dirty() == [APP]


def test_a_configuration_that_comes_between_decision_and_settling_is_not_lost() -> None:
    site = Site(APP)
    Worker(site, "red").start().advance(APP)
    site.see(APP)
    new: list[Worker] = []

    def upgrade() -> None:
        if not new:
            new.append(Worker(site, "blue"))
            new[0].start()

    old = Worker(site, "red", meanwhile=upgrade)

    assert old.advance(APP).outcome == "outdated"
    assert site.events.dirty() == [APP]


def test_another_program_is_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(APP)
    old = Worker(site, "red").start()
    old.advance(APP)
    monkeypatch.setattr(configuration, "program", lambda: "the next release")

    new = Worker(site, "red").start()

    assert (old.outdated(), new.outdated(), site.events.dirty()) == (True, False, [APP])


def test_an_event_of_a_newer_program_in_the_own_stream_makes_a_worker_outdated() -> None:
    class Foretold(Event):
        """Something that only a later program knows."""

    site = Site(APP)
    old = Worker(site, "red").start()
    site.events.append(OWN, site.events.version(OWN), [Foretold()], actor="dataplane")

    assert old.advance(APP).outcome == "outdated"


def test_while_a_worker_of_the_configuration_in_force_is_there_an_old_one_leaves_it() -> None:
    site = Site(APP)
    old, new = Worker(site, "red").start(), Worker(site, "blue").start()

    site.pass_time(20 * ABSENCE, old, new)

    assert site.recorded() == ["red", "blue"]
    assert (old.outdated(), new.outdated()) == (True, False)


@pytest.mark.parametrize("absent", [False, True])
def test_a_worker_that_says_it_is_there_takes_the_place_of_no_newer_one(absent: bool) -> None:
    site = Site(APP)
    old = Worker(site, "red").start()
    if absent:
        Worker(site, "green").start()  # and ends
        site.pass_time(PRESENCE_TTL + ABSENCE, old)
    announce, new = site.events.announce, Worker(site, "blue")

    def upgrade(name: str, ttl: float) -> None:
        site.events.announce = announce  # type: ignore[method-assign]
        new.start()
        announce(name, ttl)

    site.events.announce = upgrade  # type: ignore[method-assign]
    site.pass_time(PRESENCE_EVERY, old)

    assert site.recorded()[-1] == "blue"
    assert (old.outdated(), new.outdated()) == (True, False)


def test_an_old_worker_goes_on_when_no_new_one_comes_up() -> None:
    site = Site(APP)
    old = Worker(site, "red").start()
    old.advance(APP)
    Worker(site, "blue").start()  # and crashes

    site.pass_time(PRESENCE_TTL + ABSENCE + 2 * PRESENCE_EVERY, old)

    assert not old.outdated()
    assert old.advance(APP).outcome == "acknowledged"


def test_an_old_container_that_restarts_during_an_upgrade_keeps_the_new_configuration_out_while_it_lives_only() -> None:
    site = Site(APP)
    new = Worker(site, "blue").start()
    restarted = Worker(site, "red").start()
    assert new.outdated()

    site.pass_time(10 * ABSENCE, new, restarted)
    assert new.outdated()
    site.pass_time(PRESENCE_TTL + ABSENCE + 2 * PRESENCE_EVERY, new)  # the old pod is gone

    assert site.recorded() == ["blue", "red", "blue"]
    assert new.advance(APP).outcome == "acknowledged"
    assert site.colour(APP) == "blue"


def test_a_worker_makes_good_what_a_crash_left_between_recording_and_marking(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(APP)
    Worker(site, "red").start().advance(APP)
    new = Worker(site, "blue")
    with monkeypatch.context() as patch:
        patch.setattr(site.events, "mark_dirty", _power_cut)
        with pytest.raises(SystemError):
            new.start()
    assert site.events.dirty() == []

    new.keep()

    assert site.events.dirty() == [APP]


def test_a_log_that_came_back_empty_gets_its_configuration_again() -> None:
    site = Site(APP)
    worker = Worker(site, "red").start()
    site.events = MemoryLog(site.clock)
    worker.configurations = Configurations(site.events, DataPlaneStream(site.events, OWN), {"lgp/": Painter("red")})

    worker.keep()

    assert site.recorded() == ["red"]


def test_the_watcher_records_where_nothing_is_in_force_and_never_after() -> None:
    site = Site(APP)
    watcher = Worker(site, "red")

    assert watcher.configurations.record_first() == ["operator"]
    assert Worker(site, "blue").configurations.record_first() == []
    assert site.recorded() == ["red"]


def _power_cut(_stream: str) -> None:
    raise SystemError("power cut")


class Upgrades(RuleBasedStateMachine):
    """Workers of three configurations start, crash, work and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site(APP, OTHER)
        self.alive: list[Worker] = []

    @rule(colour=st.sampled_from(["red", "blue", "green"]))
    def start(self, colour: str) -> None:
        self.alive.append(Worker(self.site, colour).start())

    @rule(colour=st.sampled_from(["red", "blue"]), marked=st.integers(0, 1))
    def start_and_crash(self, colour: str, marked: int) -> None:
        mark_dirty, left = self.site.events.mark_dirty, [marked]

        def crash(stream: str) -> None:
            if not left[0]:
                raise SystemError("power cut")
            left[0] -= 1
            mark_dirty(stream)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.site.events, "mark_dirty", crash)
            with contextlib.suppress(SystemError):
                Worker(self.site, colour).start()

    @rule(number=st.integers(0, 5))
    def end(self, number: int) -> None:
        if self.alive:
            self.alive.pop(number % len(self.alive))

    @rule(number=st.integers(0, 5), stream=st.sampled_from([APP, OTHER]))
    def work(self, number: int, stream: str) -> None:
        if self.alive:
            self.alive[number % len(self.alive)].advance(stream)

    @rule(stream=st.sampled_from([APP, OTHER]))
    def see(self, stream: str) -> None:
        self.site.see(stream)

    @rule(seconds=st.sampled_from([PRESENCE_EVERY, ABSENCE, 2 * ABSENCE]))
    def pass_time(self, seconds: float) -> None:
        self.site.pass_time(seconds, *self.alive)

    @invariant()
    def a_clean_stream_was_looked_at_under_the_configuration_in_force(self) -> None:
        state = DataPlaneStream(self.site.events, OWN).state()
        if state.spread != state.configurations or not self.site.recorded():
            return  # nothing in force, or a crash before all streams were marked, which the next worker makes good
        for stream in {APP, OTHER} - set(self.site.events.dirty()):
            assert self.site.colour(stream) == self.site.recorded()[-1]

    def teardown(self) -> None:
        """Given any worker that stays: in the end all is as a living worker's configuration asks for."""
        self.alive.append(Worker(self.site, "red").start())
        self.site.pass_time(PRESENCE_TTL + ABSENCE + 2 * PRESENCE_EVERY, *self.alive)
        for stream in (APP, OTHER):
            for worker in self.alive:
                worker.advance(stream)
        assert {APP, OTHER} & set(self.site.events.dirty()) == set()
        self.a_clean_stream_was_looked_at_under_the_configuration_in_force()
        assert self.site.recorded()[-1] in {worker.colour for worker in self.alive}
        spread = [record for record in self.site.events.read(OWN) if record.type == ConfigurationSpread.__name__]
        assert spread


TestUpgrades = Upgrades.TestCase
TestUpgrades.settings = effort(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
