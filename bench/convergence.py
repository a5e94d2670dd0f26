"""convergence: many deployments at once, from the control plane to all their objects in the cluster.

How. The whole stack in processes of its own on a real API server (with kube-controller-manager, and without kubelets:
no pod runs, and nothing beyond the apply is waited for). One deployment warms it up. Then all are created on the
control plane, sixteen at a time, and the clock that started with the first of these requests stops with the last
`ObjectsApplied` that completes a deployment. What the log says is checked at the end: every LGP's state holds every
object that it asks for, and the API server has them.

The raw limit. The engine's processes end. The very same objects (the manifests that the engine derives from the log:
LGPs, Secrets, and all that an LGP expands into) go into a fresh namespace of the same API server, sent by a bare
asynchronous client (`raw`). The ratio of the two rates is what everything else costs: polls, the event log, locks, a
read before each write, the watcher's view of it all, status, and Celery.

A peer, written with Kopf (`peer`), then does the operator's part alone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from bench import peer, raw
from bench.report import Detail, Report
from bench.world import Options, Say, World, children, cpu_seconds, eventually, running
from engine import bootstrap
from engine.event import Record
from engine.listener.desired import secret_manifest
from engine.listener.machine import ListenerMachine
from engine.listener.state import DeploymentState
from engine.operator.machine import OperatorMachine
from engine.operator.plan import ROUTE_KIND
from engine.operator.state import OperatorState
from engine.ports import Manifest, ObjectKey
from engine.runtime.fold import Fold
from sandbox.stack import kubernetes_client

DEPLOYMENTS = 200
PATIENCE = 600.0
"""Seconds for all of them."""
COLLECTIONS = (
    "/apis/apps.langchain.ai/v1alpha1/namespaces/{ns}/lgps",
    "/apis/apps/v1/namespaces/{ns}/deployments",
    "/apis/apps/v1/namespaces/{ns}/statefulsets",
    "/api/v1/namespaces/{ns}/services",
    "/api/v1/namespaces/{ns}/secrets",
)
"""Every kind that an Agent Server's objects are of."""


CLIENT = "client"
WORTH_A_ROW = 0.1
"""CPU seconds below which a process is left out of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Another way to the same objects."""

    seconds: float
    cpu: dict[str, float]
    """CPU seconds by process, where the system tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converged:
    """The stack's run."""

    seconds: float
    """From the first request to the control plane to the last object."""
    created: float
    """Of these, until the control plane had taken all."""
    first_applied: float
    """From the first request to the first deployment that was complete."""
    cpu: dict[str, float]
    """CPU seconds by process, where the system tells."""


def measure(options: Options) -> Report:
    deployments = options.deployments or DEPLOYMENTS
    overrides = {"HEALTH_CHECK_ENABLED": "false", "ROLLOUT_DEADLINE_SECONDS": "3600"}
    with running(options, overrides=overrides) as world:
        converged = converge(world, deployments, options.say)
        world.stack.stop_engine()
        manifests = wanted(world)
        check(world, manifests)
        options.say(f"{len(manifests):,} objects applied; now the same by a bare client")
        acknowledge(world.stack.namespace, world)
        bare = timed(world, lambda: raw_limit(world, manifests))
        acknowledge("raw", world)
        options.say("and by an operator written with Kopf")
        kopf = timed(world, lambda: peer.converge(world.stack, manifests))
    report = Report(name="convergence", title=f"{deployments} deployments at once ({world.stack.cluster})")
    show(report, deployments, len(manifests), converged, bare, kopf)
    return report


def timed(world: World, work: Callable[[], tuple[float, float]]) -> Compared:
    """Do `work`, which returns its seconds and the CPU seconds of its client."""
    before = cpu_by_process(world)
    seconds, client = work()
    return Compared(seconds=seconds, cpu={**used(before, cpu_by_process(world)), CLIENT: client})


def raw_limit(world: World, manifests: list[Manifest]) -> tuple[float, float]:
    """Apply everything with the bare client; return its seconds and CPU seconds."""
    cpu = time.process_time()
    seconds = raw.apply_all(world.stack.kubeconfig, "raw", manifests)
    return seconds, time.process_time() - cpu


def show(report: Report, deployments: int, objects: int, run: Converged, bare: Compared, kopf: Compared) -> None:
    counted = objects * deployments / (deployments + 1)  # the one that warms up is not in the time of the stack
    rate, limit = counted / run.seconds, objects / bare.seconds
    each = f"{counted / deployments:g} objects each"
    report.add("all objects of all deployments", run.seconds, "s", note=each)
    report.add("of that, creating on the control plane", run.created, "s")
    report.add("first deployment complete", run.first_applied, "s")
    report.add("agentplane", rate, "objects/s", note=f"{deployments / run.seconds:.3g} deployments/s")
    report.add("raw limit", limit, "objects/s", note=f"{bare.seconds:.3g} s, {raw.CONNECTIONS} connections")
    report.add("agentplane / raw limit", rate / limit)
    report.add("Kopf operator", objects / kopf.seconds, "objects/s", note="from LGPs alone: no control plane, no log")
    report.add("Kopf operator / raw limit", bare.seconds / kopf.seconds)
    if run.cpu:
        note = "of all processes, the API server's included; less moved by busy neighbours than times are"
        report.add("CPU: agentplane", 1000 * sum(run.cpu.values()) / counted, "ms/object", note=note)
        report.add("CPU: raw limit", 1000 * sum(bare.cpu.values()) / objects, "ms/object")
        report.add("CPU: Kopf operator", 1000 * sum(kopf.cpu.values()) / objects, "ms/object")
        report.details.append(where(run, bare, kopf))


def where(run: Converged, bare: Compared, kopf: Compared) -> Detail:
    """Return who used the processors."""
    times = (run.cpu, bare.cpu, kopf.cpu)
    names = [name for name in (*run.cpu, CLIENT) if max(cpu.get(name, 0.0) for cpu in times) >= WORTH_A_ROW]
    rows = [(name, *(_cpu(cpu.get(name, 0.0)) for cpu in times)) for name in names]
    rows.append(("all", *(_cpu(sum(cpu.values())) for cpu in times)))
    rows.append(("wall clock", *(f"{seconds:.1f}" for seconds in (run.seconds, bare.seconds, kopf.seconds))))
    return Detail(title="CPU seconds", columns=("process", "agentplane", "raw limit", "Kopf"), rows=rows)


def _cpu(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= WORTH_A_ROW else ""


# --- the run


def converge(world: World, deployments: int, say: Say) -> Converged:
    """Create deployments and wait until every object of each is applied. Raises TimeoutError."""
    progress = Progress(world)
    world.create("warm-up")
    eventually("the first deployment is applied", 120, lambda: progress.look().complete >= 1)
    cpu = cpu_by_process(world)
    names = [f"agent-{number}" for number in range(deployments)]
    started, start = datetime.now(UTC), time.perf_counter()
    with ThreadPoolExecutor(1) as aside:
        creating = aside.submit(world.create_all, names)
        creating.add_done_callback(lambda _: seconds.append(time.perf_counter() - start))
        seconds: list[float] = []
        told = 0

        def done() -> bool:
            nonlocal told
            complete = progress.look().complete - 1
            if complete - told >= max(deployments // 4, 1):
                told = complete
                say(f"{complete} of {deployments} after {time.perf_counter() - start:.1f} s")
            return complete >= deployments

        eventually(f"{deployments} deployments are applied", PATIENCE, done, pause=0.1)
        creating.result()
    after = cpu_by_process(world)
    times = sorted(progress.completed.values())[1:]
    return Converged(
        seconds=(times[-1] - started).total_seconds(),
        created=seconds[0],
        first_applied=(times[0] - started).total_seconds(),
        cpu=used(cpu, after),
    )


@dataclass
class Progress:
    """Which LGPs have all their objects, read from the log as it grows."""

    world: World
    completed: dict[str, datetime] = field(default_factory=dict)
    """LGP stream → when its last object was applied."""
    _position: int = 0
    _applied: dict[str, set[str]] = field(default_factory=dict)
    _plan: int = 0
    """Objects of one LGP; all are alike."""

    @property
    def complete(self) -> int:
        return len(self.completed)

    def look(self) -> Progress:
        """Read what is new."""
        while records := self.world.events.read_all(self._position):
            self._position = records[-1].position
            for record in records:
                if record.type == "ObjectsApplied":
                    self._take(record)
        return self

    def _take(self, record: Record) -> None:
        applied = self._applied.setdefault(record.stream, set())
        applied |= {str(ObjectKey(**found["key"])) for found in record.data["objects"]}
        if not self._plan:
            machine = operator(self.world)
            self._plan = len(machine.plan(folded(machine, self.world, record.stream)).objects)
        if len(applied) >= self._plan:
            self.completed.setdefault(record.stream, record.at)


def folded(machine: Any, world: World, stream: str) -> Any:
    """Return the state of a stream."""
    fold = Fold(machine, world.events, stream)
    fold.catch_up()
    return fold.state


def operator(world: World) -> OperatorMachine:
    return OperatorMachine(bootstrap.operator_config(world.settings))


def used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return what was used in between."""
    return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}


def cpu_by_process(world: World) -> dict[str, float]:
    """Return the CPU seconds of every process of the stack with its children."""
    found: dict[str, float] = {}
    servers = {server.name: server for server in world.stack.infrastructure} | world.stack.engine
    for name, server in servers.items():
        if not server.running:
            continue
        for number, pid in enumerate([server.pid, *children(server.pid)]):
            seconds = cpu_seconds(pid)
            if seconds is not None:
                label = name if number == 0 else f"{name}: {program(pid)}"
                found[label] = found.get(label, 0.0) + seconds
    return found


def program(pid: int) -> str:
    """Return the name of a program that runs."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "?"


# --- what was applied


def wanted(world: World) -> list[Manifest]:
    """Return every object that the log says is in the cluster, as the engine derives it: no route, no secret value."""
    found: list[Manifest] = []
    listener = ListenerMachine(bootstrap.listener_config(world.settings))
    for stream in world.events.streams("deployment/"):
        state: DeploymentState = folded(listener, world, stream)
        assert state.revision is not None
        values = {name: secrets.token_hex(8) for name in state.revision.secret_names}
        found.append(secret_manifest(state, listener.config, state.revision.secret, values))
        found += listener.manifests(state)
    machine = operator(world)
    for stream in world.events.streams("lgp/"):
        lgp: OperatorState = folded(machine, world, stream)
        plan = machine.plan(lgp)
        missing = [key for key, one in plan.objects.items() if lgp.objects[key].applied.digest != one.digest]
        if missing or lgp.rejected:
            raise RuntimeError(f"{stream}: not as asked: {missing or list(lgp.rejected)}")
        found += [manifest for manifest in machine.manifests(lgp) if manifest["kind"] != ROUTE_KIND]
    return found


def check(world: World, manifests: list[Manifest]) -> None:
    """Hold the log against the API server. RuntimeError when one has what the other has not."""
    asked = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    there: set[tuple[str, str]] = set()
    with kubernetes_client(world.stack.kubeconfig) as http:
        for path in COLLECTIONS:
            for item in collection(http, path.format(ns=world.stack.namespace)):
                there.add((item["kind"], item["metadata"]["name"]))
    if lost := asked - there:
        raise RuntimeError(f"{len(lost)} objects that the log says are applied are not there: {sorted(lost)[:3]}")


def collection(http: httpx.Client, path: str) -> list[Manifest]:
    """Return all objects of a collection."""
    listed = http.get(path).raise_for_status().json()
    kind = listed["kind"].removesuffix("List")
    return [{**item, "kind": kind} for item in listed["items"]]


def acknowledge(namespace: str, world: World) -> None:
    """Wait until controllers have made their pods: they are not to be part of what is measured next."""
    with kubernetes_client(world.stack.kubeconfig) as http:
        quiet(lambda: len(collection(http, f"/api/v1/namespaces/{namespace}/pods")))


def quiet(number: Callable[[], int], seconds: float = 2.0) -> None:
    """Wait until a number has not changed for so long."""
    known, since = -1, time.monotonic()
    deadline = time.monotonic() + 120
    while time.monotonic() - since < seconds and time.monotonic() < deadline:
        if (now := number()) != known:
            known, since = now, time.monotonic()
        time.sleep(0.25)
