"""A real master, its replica and three Sentinels: the engine before, during and after a failover."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from cli.doctor.finding import Finding, Level
from cli.doctor.redis import check_redis
from engine.bootstrap import open_log
from engine.errors import ConcurrencyConflict, LockLost, LogUnavailable
from engine.log.redis import RedisLog
from engine.log.sentinels import Sentinels
from engine.settings import Settings
from sandbox.ports import free_port
from sandbox.redis import RedisGroup, RedisServer
from tests.support.certificates import self_signed
from tests.support.eventually import eventually
from tests.support.fleet import Fleet
from tests.support.notes import NOON, notes
from workers.app import build
from workers.dispatch import CeleryDispatcher

PASSWORD, OWN_PASSWORD = "of-the-servers", "of-the-sentinels"


@pytest.fixture(scope="module")
def shared(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisGroup]:
    """Start the group once for all tests. `redis_url` skips the tests if no Redis is installed."""
    with RedisGroup(tmp_path_factory.mktemp("group"), password=PASSWORD, own_password=OWN_PASSWORD) as group:
        yield group


@pytest.fixture
def group(shared: RedisGroup) -> RedisGroup:
    """Return three Sentinels, a master and a synchronised replica, repaired after the previous test."""
    shared.repair()
    return shared


@pytest.fixture
def start(group: RedisGroup, tmp_path: Path, prefix: str) -> Iterator[Callable[[], Fleet]]:
    """Return a function that makes the test's installation; the fixture stops the installation after the test."""
    fleets: list[Fleet] = []

    def make() -> Fleet:
        sentinels = {"REDIS_SENTINEL_MASTER": group.NAME, "REDIS_SENTINEL_PASSWORD": OWN_PASSWORD}
        fleets.append(Fleet(group.url, prefix, tmp_path, sentinels))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.stop()


@pytest.fixture
def events(group: RedisGroup, prefix: str) -> Iterator[RedisLog]:
    log = RedisLog.from_url(Sentinels.parse(group.url, group.NAME, password=OWN_PASSWORD), prefix, timeout=2)
    yield log
    log.close()


# --- the processes


def test_the_same_processes_go_on_when_the_master_dies(start: Callable[[], Fleet], group: RedisGroup) -> None:
    fleet = start()
    worker, beat = fleet.worker(step_seconds=0.3), fleet.beat()
    pids = (worker.pid, beat.pid)
    before = fleet.ask("before", steps=6)
    fleet.dispatcher.dispatch(before)
    eventually(lambda: f"{before} 2" in fleet.effects("begun"), "in the middle of step 2")
    group.replicated()
    done = fleet.steps(before)

    group.crash()

    eventually(lambda: fleet.events.dirty() == [] and fleet.steps(before)[-1:] == [6], "what was begun is done", 40)
    assert fleet.steps(before)[: len(done)] == done
    after = fleet.ask("after", steps=2)
    fleet.dispatcher.dispatch(after)
    eventually(lambda: fleet.steps(after) == [1, 2], "messages are consumed again")
    swept = fleet.ask("swept", steps=1)
    eventually(lambda: fleet.steps(swept) == [1], "sweeps come again")
    # The replica may lack the last acknowledgement of a message; Celery then delivers the message once more after the
    # visibility timeout.
    eventually(lambda: fleet.unacknowledged() <= 1, "the message that was in flight is acknowledged too")
    assert (worker.running, beat.running) == (True, True)
    assert (worker.pid, beat.pid) == pids
    assert [r.version for r in fleet.events.read(before)] == list(range(1, fleet.events.version(before) + 1))


def test_clients_leave_a_replaced_master_that_refuses_for_the_new_master(
    start: Callable[[], Fleet], group: RedisGroup
) -> None:
    """After a manual failover, the old master still acts as a master for some seconds, but has no replica."""
    fleet = start()
    worker, beat = fleet.worker(step_seconds=0.1), fleet.beat()
    streams = [fleet.ask(f"n{number}", steps=5) for number in range(10)]
    for stream in streams:
        fleet.dispatcher.dispatch(stream)
    eventually(lambda: len(fleet.effects()) >= 10, "the worker has done some steps")
    with group.client(group.master) as old:
        old.config_set("min-replicas-to-write", 1)
        group.fail_over()

        fleet.events.close()  # so that the test's next command asks the Sentinels, too
        eventually(lambda: all(fleet.steps(stream)[-1:] == [5] for stream in streams), "all steps are done")
        eventually(lambda: fleet.events.dirty() == [], "all streams are acknowledged")
        old.config_set("min-replicas-to-write", 0)
    assert (worker.running, beat.running) == (True, True)
    keys = [key.decode() for key in fleet.client.scan_iter(f"*{fleet.prefix}*")]
    assert {key.partition(":")[0] for key in keys} == {fleet.prefix, "{" + fleet.prefix + "}"}


# --- the event log


def test_appends_that_the_replica_lacks_are_lost_as_a_whole(group: RedisGroup, events: RedisLog) -> None:
    """The new master holds an earlier state of the log: events, work tokens, timers and locks of one moment."""
    events.append("work/a", 0, notes("one", "two"), actor="poll")
    events.append("work/b", 0, notes("other"), actor="poll")
    assert events.acknowledge("work/b", 1)
    with events.lock("work/a", ttl=60) as kept:
        group.replicated()
        then = (events.head(), events.versions(), events.dirty(), events.work_token("work/a"))
        history = events.history()

        with group.cut_off():
            events.append("work/a", 2, notes("lost"), actor="worker", lock=kept)
            assert events.acknowledge("work/a", 3)
            events.append("work/b", 1, notes("lost too"), actor="poll")
            with events.lock("work/c", ttl=60) as lost:
                pass

        assert (events.head(), events.versions(), events.dirty(), events.work_token("work/a")) == then
        assert events.history() not in ("", history)
        assert events.acknowledge("work/a", 3) is False
        with pytest.raises(ConcurrencyConflict) as conflict:
            events.append("work/a", 3, notes("x"), actor="worker", lock=kept)
        assert conflict.value.actual == 2
        with pytest.raises(LockLost):
            lost.keep()
        kept.keep()
        assert events.append("work/a", 2, notes("again"), actor="worker", lock=kept) == 3
    assert [record.data["text"] for record in events.read_all()] == ["one", "two", "other", "again"]
    assert [record.position for record in events.read_all()] == [1, 2, 3, 4]


def test_appends_that_a_crash_interrupts_leave_a_prefix_of_the_log(group: RedisGroup, events: RedisLog) -> None:
    stop = threading.Event()
    appended: dict[int, int] = dict.fromkeys(range(4), 0)
    failed: list[Exception] = []

    def append(number: int) -> None:
        stream, at = f"work/{number}", 0
        while not stop.is_set():
            try:
                at = events.append(stream, at, notes("a", "b", "c"), actor="poll")
                appended[number] += 1
            except ConcurrencyConflict as conflict:
                at = conflict.actual
            except LogUnavailable:
                time.sleep(0.1)
            except Exception as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=append, args=(number,)) for number in appended]
    for thread in threads:
        thread.start()
    eventually(lambda: min(appended.values()) > 50, "everybody appends")
    kept = [record.id for record in events.read_all(limit=1_000_000)]
    group.replicated()

    group.crash()

    before = dict(appended)
    eventually(lambda: all(appended[n] > before[n] + 10 for n in appended), "everybody appends to the successor")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    everything = events.read_all(limit=1_000_000)
    assert [record.position for record in everything] == list(range(1, len(everything) + 1))
    assert [record.id for record in everything[: len(kept)]] == kept
    for stream in events.streams():
        texts = [record.data["text"] for record in events.read(stream)]
        assert texts == ["a", "b", "c"] * (len(texts) // 3)  # no append is stored partly
        assert events.version(stream) == len(texts)
    assert sorted(events.dirty()) == events.streams()


def test_a_tail_and_its_appender_find_the_successor_of_a_master_that_becomes_a_replica(
    group: RedisGroup, events: RedisLog
) -> None:
    seen: list[str] = []
    stop = threading.Event()

    def follow() -> None:
        for record in events.tail(after_position=0, block=0.2, until=stop.is_set):
            seen.append(record.data["text"])

    thread = threading.Thread(target=follow)
    thread.start()
    events.append("work/a", 0, notes("before"), actor="poll")
    eventually(lambda: seen == ["before"], "the tail follows the master")
    group.replicated()

    group.fail_over()
    group.repair()  # the former master becomes a replica
    eventually(lambda: accepted(events, "after"), "the successor takes events")

    eventually(lambda: seen == ["before", "after"], "the tail follows the new master")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_replica_refuses_to_be_written_to(group: RedisGroup, prefix: str) -> None:
    """Before Redis 7, the error of a script differs from the error of a command."""
    log = RedisLog.from_url(f"redis://:{PASSWORD}@127.0.0.1:{group.replica.port}/0", prefix, attempts=0)

    with pytest.raises(LogUnavailable, match="read only replica"):
        log.append("work/a", 0, notes("one"), actor="poll")
    with pytest.raises(LogUnavailable, match="read only replica"), log.lock("work/a", ttl=5):
        pass
    with pytest.raises(LogUnavailable, match="read only replica"):
        log.schedule("work/a", NOON)

    assert (log.head(), log.due()) == (0, [])
    log.close()


def test_a_master_without_its_required_replicas_accepts_no_events(redis_url: str, prefix: str) -> None:
    with RedisServer(more={"min-replicas-to-write": "1"}) as alone, redis.Redis.from_url(alone.url) as client:
        log = RedisLog.from_url(alone.url, prefix, attempts=0)

        with pytest.raises(LogUnavailable, match="Not enough good replicas"):
            log.append("work/a", 0, notes("one"), actor="poll")

        assert log.head() == 0
        client.config_set("min-replicas-to-write", 0)
        assert accepted(log, "one")
        log.close()


# --- TLS


class Relay(socketserver.ThreadingTCPServer):
    """Terminates TLS in front of a server on loopback, and replaces a port (five digits) in the server's answers."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, port: int, names: tuple[int, int] = (0, 0)) -> None:
        self.context, self.behind = context, port
        self.names = (str(names[0]).encode(), str(names[1]).encode())
        super().__init__(("127.0.0.1", 0), Relayed)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Relayed(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with (
            suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self.server.behind)) as behind,
        ):
            ends = threading.Thread(target=self._back, args=(client, behind), daemon=True)
            ends.start()
            while request_bytes := client.recv(65536):
                behind.sendall(request_bytes)

    def _back(self, client: ssl.SSLSocket, behind: socket.socket) -> None:
        with suppress(OSError):
            while answer := behind.recv(65536):
                client.sendall(answer.replace(*self.server.names))


def test_tls_leads_to_the_sentinels_and_to_the_master(group: RedisGroup, prefix: str, tmp_path: Path) -> None:
    """The Redis of the tests speaks no TLS, so a relay in front of each server terminates TLS."""
    context, authority = self_signed(tmp_path)
    behind = group.master.port
    with Relay(context, behind) as master, Relay(context, group.sentinels[0].port, (behind, master.port)) as sentinel:
        url = f"sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/0?ssl_ca_certs={authority}"
        settings = Settings.load(
            listener_enabled=False,
            operator_enabled=False,
            prefix=prefix,
            redis_url=url,
            redis_sentinel_master=group.NAME,
            redis_sentinel_password=OWN_PASSWORD,
        )
        log = open_log(settings)
        assert log.append("work/a", 0, notes("one"), actor="poll") == 1
        log.close()
        dispatcher = CeleryDispatcher(settings)
        dispatcher.dispatch("deployment/one")
        assert dispatcher.backlog()["reconcile"] == 1

        untrusting = settings.model_copy(
            update={"redis_url": SecretStr(url.partition("?")[0] + "?ssl_cert_reqs=required")}
        )
        with pytest.raises(LogUnavailable, match="certificate verify failed"):
            RedisLog.from_url(untrusting.redis, prefix, attempts=0).head()
        with pytest.raises(OperationalError, match="No master found"):
            build(untrusting).connection().ensure_connection(max_retries=1, interval_start=0)


# --- the doctor


def findings(group: RedisGroup, url: str = "", **more: Any) -> dict[str, Finding]:
    """Return the doctor's finding for each subject of Redis; if a subject has several, the worst one."""
    given = {"redis_sentinel_master": group.NAME, "redis_sentinel_password": OWN_PASSWORD, **more}
    settings = Settings.load(listener_enabled=False, operator_enabled=False, redis_url=url or group.url, **given)
    found = sorted(check_redis(settings), key=lambda finding: list(Level).index(finding.level))
    assert not {PASSWORD, OWN_PASSWORD} & set(repr(found).replace(":", " ").replace("@", " ").split())
    return {finding.subject: finding for finding in found}


def test_the_doctor_names_the_master(group: RedisGroup) -> None:
    found = findings(group)

    at = f"127.0.0.1:{group.master.port}"
    assert found["redis sentinels"].detail == f"3 Sentinels answer: {group.NAME} is at {at}, and can fail over"
    assert found["redis"].detail.startswith(f"{group.NAME} at {at}, version ")
    assert {finding.level for finding in found.values()} == {Level.OK, Level.WARN}
    assert "min-replicas-to-write 1" in found["redis replicas"].fix


def test_the_doctor_accepts_replicas_that_the_master_waits_for(group: RedisGroup) -> None:
    with group.client(group.master) as master:
        master.config_set("min-replicas-to-write", 1)
        found = findings(group)
        master.config_set("min-replicas-to-write", 0)

    assert {finding.level for finding in found.values()} == {Level.OK}


def test_the_doctor_knows_a_wrong_name_of_the_master(group: RedisGroup) -> None:
    finding = findings(group, redis_sentinel_master="mymaster")["redis sentinels"]

    assert finding.level is Level.FAIL
    assert finding.detail == "the Sentinels know no master 'mymaster'; they know: main"
    assert finding.fix == "correct AGENTPLANE_REDIS_SENTINEL_MASTER"


@pytest.mark.parametrize("password", ["", "another"])
def test_the_doctor_knows_a_wrong_password_of_the_sentinels(group: RedisGroup, password: str) -> None:
    finding = findings(group, redis_sentinel_password=password or None)["redis sentinels"]

    assert finding.level is Level.FAIL
    assert finding.fix == "correct AGENTPLANE_REDIS_SENTINEL_PASSWORD, the password of the Sentinels themselves"


def test_the_doctor_knows_a_wrong_password_of_the_master(group: RedisGroup) -> None:
    found = findings(group, group.url.replace(PASSWORD, "another"))

    assert found["redis sentinels"].level is Level.OK
    assert found["redis"].level is Level.FAIL
    assert "correct the password in AGENTPLANE_REDIS_URL" in found["redis"].fix


def test_the_doctor_counts_sentinels_that_cannot_be_asked(group: RedisGroup) -> None:
    nowhere = f"sentinel://127.0.0.1:{free_port()}"

    some, none = findings(group, f"{group.url};{nowhere}"), findings(group, nowhere)

    assert some["redis sentinels"].level is Level.WARN
    assert some["redis sentinels"].detail.startswith("1 of 4 Sentinels do not answer: 127.0.0.1:")
    assert some["redis"].level is Level.OK
    assert none["redis sentinels"].level is Level.FAIL
    assert "Connection refused" in none["redis sentinels"].detail
    assert none["redis sentinels"].fix == "start the Sentinels, or correct AGENTPLANE_REDIS_URL"


def accepted(log: RedisLog, text: str) -> bool:
    """Append once; return whether the log accepted the event."""
    try:
        return log.append("work/a", log.version("work/a"), notes(text), actor="poll") > 0
    except LogUnavailable:
        return False
