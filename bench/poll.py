"""poll: the cost of one poll of many deployments that did not change.

How. A control plane in a process of its own has N deployments, which its own rules wrote into its database. This
process is the worker: the engine as `bootstrap` wires it, with a real Redis and without a cluster, which a poll does
not use. Its first poll finds N new deployments and creates their streams. Then the benchmark appends to each stream the
events of a deployment until it serves (`history`), so that folding a stream costs the same as in production. The second
poll reads every stream, because each has new events. The benchmark then measures the next poll several times, and
finally a poll without the memory of earlier polls, as after a restart of the worker.

CPU seconds are those of this process with all its threads (`time.process_time`): decoding and comparing, without the
control plane. Only events in the streams of deployments are counted.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx

from bench.report import Report, median
from bench.world import Options, Say, form
from engine import bootstrap
from engine.event import Event
from engine.kubernetes.fingerprint import Fingerprint
from engine.listener.events import (
    HealthChecked,
    LgpApplied,
    RevisionDeployed,
    RolloutObserved,
    SecretsApplied,
    SecretsPruned,
    StatusReported,
)
from engine.listener.poll_context import PollMemory
from engine.listener.state import DeploymentState
from engine.ports import Cluster
from engine.runtime.fold import Fold
from engine.settings import Settings
from sandbox.control_plane import rules
from sandbox.control_plane.resources import DeploymentCreate
from sandbox.control_plane.server import seed
from sandbox.control_plane.store import Store
from sandbox.ports import LOOPBACK, free_port, release
from sandbox.processes import ServerProcess
from sandbox.redis import RedisServer

DEPLOYMENTS = 10_000
CPU_BUDGET = 1.5
"""CPU seconds for DEPLOYMENTS deployments; proportional for other numbers."""
REPEATS = 5

WORKSPACE = "6e1a7a6e-0000-4000-8000-00000000be5c"
API_KEY = "lsv2_sandbox_0123456789abcdef"
NAMESPACE = "agents"


class NoCluster:
    """A stand-in for the cluster that raises on every use."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"a poll must not use the cluster, but it used {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """The cost and the results of one poll."""

    cpu: float
    """CPU seconds."""
    wall: float
    """Seconds of wall-clock time."""
    events: int
    """How many events the poll appended to streams of deployments."""
    listed: int
    """How many deployments the control plane listed."""


def measure(options: Options) -> Report:
    deployments = options.deployments or DEPLOYMENTS
    report = Report(name="poll", title=f"one poll of {deployments:,} deployments")
    with polling(deployments, options.say) as engine:
        first = polled(engine)
        options.say(f"first poll: {first.events:,} events")
        live(engine, options.say)
        moved = polled(engine)
        again = [polled(engine) for _ in range(REPEATS)]
        engine.poller.memory = PollMemory()
        forgotten = polled(engine)
    budget = CPU_BUDGET * deployments / DEPLOYMENTS
    cpu = [poll.cpu for poll in again]
    spread = f"median of {REPEATS}: {min(cpu):.2f} to {max(cpu):.2f}"
    report.add("unchanged: CPU", median(cpu), "s", budget=budget, note=spread)
    report.add(
        "unchanged: wall clock", median([poll.wall for poll in again]), "s", note="including the control plane's work"
    )
    report.add("unchanged: events appended", sum(poll.events for poll in again), budget=0)
    report.add("unchanged: deployments listed", min(poll.listed for poll in again), f"of {deployments:,}")
    report.add("after a restart: CPU", forgotten.cpu, "s", note="no memory of earlier polls: every stream is folded")
    report.add("after a restart: wall clock", forgotten.wall, "s")
    report.add("after a restart: events appended", forgotten.events, budget=0)
    report.add("new events in every stream: CPU", moved.cpu, "s", note="all were deployed since the last poll")
    report.add("all new: CPU", first.cpu, "s", note="the very first poll")
    report.add("all new: wall clock", first.wall, "s", note=f"{first.events / first.wall:,.0f} events/s")
    return report


def polled(engine: bootstrap.Engine) -> Polled:
    """Poll once. Raises RuntimeError when the poll fails."""
    before = appended(engine)
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    result = engine.poll()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if result.outcome != "polled":
        raise RuntimeError(f"the poll's outcome is {result.outcome!r}: {result.error}")
    return Polled(cpu=cpu, wall=wall, events=appended(engine) - before, listed=result.listed)


def appended(engine: bootstrap.Engine) -> int:
    """Return how many events the streams of deployments have."""
    return sum(engine.events.versions("deployment/").values())


@contextmanager
def polling(deployments: int, say: Say = lambda _: None) -> Iterator[bootstrap.Engine]:
    """Yield an engine that can poll a control plane with this many deployments."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentplane-bench-")))
        redis = stack.enter_context(RedisServer(folder / "redis"))
        listener = fill(folder / "control-plane.sqlite", deployments)
        say(f"the control plane has {deployments:,} deployments")
        url = stack.enter_context(serving(folder))
        engine = bootstrap.build(
            Settings.load(
                langsmith_api_key=API_KEY,
                workspace_id=WORKSPACE,
                listener_id=listener,
                host_backend_url=url,
                smith_backend_url=f"{url}/langsmith",
                watch_namespaces=NAMESPACE,
                redis_url=redis.url,
                prefix="bench",
                ingress_hostname="agents.example.com",
            ),
            cluster=cast(Cluster, NoCluster()),
        )
        stack.callback(engine.events.close)  # type: ignore[attr-defined]
        stack.callback(engine.ports.control_plane.close)  # type: ignore[attr-defined]
        yield engine


def fill(database: Path, deployments: int) -> str:
    """Create a control plane's database with a listener and its deployments; return the listener's id."""
    store = Store(database)
    listener: str = seed(store, WORKSPACE, "bench", [NAMESPACE])["id"]
    with store.transaction():
        for number in range(deployments):
            asked = DeploymentCreate.model_validate_json(json.dumps(form(f"agent-{number}")))
            rules.create_deployment(store, WORKSPACE, asked, infer_listener=True)
    store.close()
    return listener


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run the control plane with the database of `folder` as a process; yield its URL."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    command = [
        *(sys.executable, "-m", "sandbox.control_plane"),
        *("--port", str(port)),
        *("--db", str(folder / "control-plane.sqlite")),
        *("--workspace", WORKSPACE),
        *("--api-key", API_KEY),
    ]
    server = ServerProcess("control plane", command, log=folder / "control-plane.log", ready=lambda: _answers(url))
    try:
        server.start()
        yield url
    finally:
        server.stop()
        release(port)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


# --- streams as they are in production


def live(engine: bootstrap.Engine, say: Say = lambda _: None) -> None:
    """Append to every deployment's stream the events until the deployment serves."""

    def grow(stream: str) -> None:
        fold = Fold(machine, engine.events, stream)
        fold.catch_up()
        engine.events.append(stream, fold.version, history(fold.state), actor="listener")

    machine = engine.machine_of("deployment/")
    streams = engine.events.streams("deployment/")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(grow, streams))
    say(f"{appended(engine):,} events in {len(streams):,} streams")


def history(state: DeploymentState) -> list[Event]:
    """Return the events of a newly registered deployment until it serves."""
    revision = state.revision
    assert revision is not None
    secret, url = f"{state.lgp.name}-env-0123456789ab", f"https://agents.example.com/lgp/{state.lgp.name}/ok"

    def reported(status: str) -> Event:
        return StatusReported(subject="revision", id=revision.id, status=status)

    def observed(ready: int) -> Event:
        return RolloutObserved(
            generation=1,
            available=ready == 2,
            progressing=ready < 2,
            database_ready=ready > 0,
            replicas=2,
            ready=ready,
            updated_revision=revision.id,
        )

    return [
        SecretsApplied(revision_id=revision.id, secret=secret, digest="0" * 64),
        reported("AWAITING_DEPLOY"),
        LgpApplied(
            revision_id=revision.id,
            manifest_digest="0" * 16,
            fingerprint=Fingerprint(uid=state.id, generation=1, fields="0" * 16),
            created=True,
        ),
        reported("DEPLOYING"),
        *(observed(ready) for ready in (0, 1, 2)),
        HealthChecked(revision_id=revision.id, ok=True, url=url, detail="200", attempt=1),
        RevisionDeployed(revision_id=revision.id),
        reported("DEPLOYED"),
        StatusReported(subject="deployment", id=state.id, status="READY"),
        SecretsPruned(kept=secret, deleted=()),
    ]
