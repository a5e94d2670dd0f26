"""What the doctor finds when the network between the Sentinels is broken."""

from __future__ import annotations

from typing import Any

import redis

from cli.doctor.finding import Level
from cli.doctor.sentinels import Answer, check_replicas, judge
from engine.log.sentinels import Sentinels

WHERE = Sentinels(hosts=(("s1", 26379), ("s2", 26379), ("s3", 26379)), master="main")


def state(ip: str, *, down: bool = False) -> dict[str, Any]:
    return {"ip": ip, "port": 6379, "is_sdown": down, "is_odown": down}


def knows(place: str, quorum: str = "", **masters: dict[str, Any]) -> Answer:
    return Answer(place=place, masters=masters, quorum=quorum)


def test_a_master_that_is_down_and_has_no_successor() -> None:
    lost = "NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority"
    refused = redis.ConnectionError("Connection refused")
    answers = [
        knows("s1:26379", lost, main=state("10.0.0.1", down=True)),
        *(Answer(place=place, problem=refused) for place in ("s2:26379", "s3:26379")),
    ]

    master, [silent, hindered, down] = judge(WHERE, answers)

    assert master == ""
    assert silent.detail == "2 of 3 Sentinels do not answer: s2:26379, s3:26379: Connection refused"
    assert (hindered.detail, hindered.fix) == (f"no failover is possible: {lost}", "start the other Sentinels")
    assert down.level is Level.FAIL
    assert down.detail == "the master 'main' is down (10.0.0.1:6379), and has no successor yet"


def test_a_network_that_is_split() -> None:
    here, there = state("10.0.0.1"), state("10.0.0.2")

    master, [finding] = judge(WHERE, [knows("s1:26379", main=here), knows("s2:26379", main=there)])

    assert master == "10.0.0.1:6379"
    assert finding.level is Level.WARN
    assert finding.detail == "the Sentinels disagree on where the master 'main' is: 10.0.0.1:6379, 10.0.0.2:6379"


def test_a_master_that_is_alone() -> None:
    [finding] = check_replicas({"connected_slaves": 0})

    assert (finding.level, finding.fix) == (Level.WARN, "start a replica")
