"""log: the rates of appends to and replays of the event log, compared with bare Redis commands.

How. One client of a real Redis (append-only file, fsync every second, as in production) writes and reads the same
events twice: through `RedisLog`, and with the stream commands that `RedisLog` uses. An append is a script that checks
the version, writes to the stream and the log of everything, and marks the stream dirty; it is compared with an XADD of
the same content. Reading the log of everything follows pointers into the streams; it is compared with an XRANGE and the
decoding of the JSON. A replay also turns records into typed events and folds these into states.

The two measurements of a pair alternate, so that other load on the machine affects both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import redis

from bench.poll import history
from bench.report import Report, median
from bench.world import Options
from engine.event import Event
from engine.listener.config import ListenerConfig
from engine.listener.events import DeploymentRegistered, RevisionRequested
from engine.listener.machine import ListenerMachine
from engine.listener.state import DeploymentState, evolve
from engine.log.redis import RedisLog, connect
from engine.names import deployment_stream
from engine.runtime.fold import Fold
from sandbox.redis import RedisServer

DEPLOYMENTS = 1000
ROUNDS = 5
BATCH = 200
"""How many commands a pipeline of the bare client has."""


def measure(options: Options) -> Report:
    deployments = options.deployments or DEPLOYMENTS
    share = max(deployments // ROUNDS, 1)
    report = Report(name="log", title=f"the event log, {share * ROUNDS:,} streams")
    with tempfile.TemporaryDirectory(prefix="agentplane-bench-") as folder, RedisServer(Path(folder)) as server:
        client = connect(server.url)
        events = RedisLog(client, "bench")
        single, bare, batch, piped = [], [], [], []
        for number in range(ROUNDS):
            ours = [life(f"s{number}-{index}") for index in range(share)]
            again = [(f"b-{deployment}", happened) for deployment, happened in ours]
            single.append(rate(partial(append_each, events, ours)))
            bare.append(rate(partial(xadd_each, client, ours)))
            batch.append(rate(partial(append_lives, events, again)))
            piped.append(rate(partial(xadd_piped, client, ours)))
        client.delete("bare")
        xadd_piped(client, [life(f"s-{index}") for index in range(2 * share * ROUNDS)])
        replayed, followed, ranged = [], [], []
        for _ in range(ROUNDS):
            followed.append(rate(lambda: read_all(events)))
            ranged.append(rate(lambda: xrange_all(client)))
            replayed.append(rate(lambda: fold_all(events)))
        events.close()
    pairs = (
        ("append, one event", single, "XADD, one by one", bare),
        ("append, a life of events at once", batch, "XADD, pipelined", piped),
        ("read the log of everything", followed, "XRANGE and JSON", ranged),
        ("replay into states, stream by stream", replayed, "XRANGE and JSON", ranged),
    )
    for what, ours_, beside, theirs in pairs:
        mine, other = median(ours_), median(theirs)
        report.add(what, mine, "events/s", note=f"{beside}: {other:,.0f} events/s")
        report.add(f"{what} / {beside}", mine / other)
    return report


def rate(work: Callable[[], int]) -> float:
    """Run `work`, which returns a count; return the count per second."""
    start = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - start)


Life = tuple[str, list[Event]]
"""The id of a deployment, and its events until it serves."""


def life(deployment: str) -> Life:
    """Return a deployment with all events until it serves."""
    registered = DeploymentRegistered(
        deployment_id=deployment,
        name=f"agent-{deployment}",
        workspace_id="6e1a7a6e-0000-4000-8000-00000000be5c",
        namespace="agents",
        lgp=f"agent-{deployment}-5e2a7c4be5c04c0a9d2a2f7d6a1b3c4d",
    )
    requested = RevisionRequested(
        revision_id=f"{deployment}-r1",
        image="registry.example/agent@sha256:" + "5" * 64,
        resource_spec={"min_scale": 1, "cpu": 0.5, "memory_mb": 512},
        secret_names=("MODEL_API_KEY", "SEARCH_API_KEY", "STORE_API_KEY"),
        secrets_digest="0" * 64,
        content_digest="0" * 64,
    )
    state = DeploymentState()
    for event in (registered, requested):
        state = evolve(state, event, NEVER)
    return deployment, [registered, requested, *history(state)]


# --- through the log


def append_each(events: RedisLog, lives: list[Life]) -> int:
    for deployment, happened in lives:
        for version, event in enumerate(happened):
            events.append(deployment_stream(deployment), version, [event], actor="bench")
    return sum(len(happened) for _, happened in lives)


def append_lives(events: RedisLog, lives: list[Life]) -> int:
    for deployment, happened in lives:
        events.append(deployment_stream(deployment), 0, happened, actor="bench")
    return sum(len(happened) for _, happened in lives)


def read_all(events: RedisLog) -> int:
    position = found = 0
    while records := events.read_all(position):
        position, found = records[-1].position, found + len(records)
    return found


def fold_all(events: RedisLog) -> int:
    found = 0
    for stream in events.streams("deployment/"):
        fold = Fold(MACHINE, events, stream)
        fold.catch_up()
        found += fold.version
    return found


# --- the bare commands


def xadd_each(client: redis.Redis, lives: list[Life]) -> int:
    added = 0
    for _, happened in lives:
        for event in happened:
            client.xadd("bare", fields(event))
            added += 1
    return added


def xadd_piped(client: redis.Redis, lives: list[Life]) -> int:
    happened = [event for _, events in lives for event in events]
    for first in range(0, len(happened), BATCH):
        with client.pipeline(transaction=False) as pipeline:
            for event in happened[first : first + BATCH]:
                pipeline.xadd("bare", fields(event))
            pipeline.execute()
    return len(happened)


def xrange_all(client: redis.Redis) -> int:
    after, found = "-", 0
    while True:
        entries: Any = client.xrange("bare", min=after, count=1000)
        if not entries:
            return found
        for _, values in entries:
            orjson.loads(values[b"e"].split(b" ", 3)[3])
        after, found = f"({entries[-1][0].decode()}", found + len(entries)


def fields(event: Event) -> dict[Any, Any]:
    """Return the fields of a Redis stream entry in the format of the event log."""
    envelope = [event.type, event.schema_version, "bench", None, event.model_dump(mode="json")]
    return {b"e": b"0123456789abcdef0123456789abcdef 1 1234567890123456 " + orjson.dumps(envelope)}


NEVER = datetime.min.replace(tzinfo=UTC)
MACHINE = ListenerMachine(
    ListenerConfig(
        listener_id="l", workspace_id="w", namespaces=("agents",), smith_url="", hostname="agents.example.com"
    )
)
