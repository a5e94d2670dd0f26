"""convergence: how fast many deployments get all their objects in the cluster, from the control plane on.

How. The whole stack runs in processes of its own with a real API server and kube-controller-manager, but without
kubelets: no pod runs, and the benchmark waits only until the objects are applied. One deployment warms the stack up.
Then the benchmark creates all deployments on the control plane, sixteen at a time. The time runs from the first of
these requests to the last `ObjectsApplied` that completes a deployment. At the end the benchmark checks the log: the
state of every LGP has all objects of its plan, and the API server has these objects.

The raw limit. The engine's processes end. A bare asynchronous client (`raw`) sends the same objects (the manifests that
the engine derives from the log: LGPs, Secrets, and all objects of each LGP) into a new namespace of the same API
server. The ratio of the two rates shows the cost of everything else: polls, the event log, locks, a read before each
write, the watcher, status, and Celery.

Then an operator written with Kopf (`peer`) does only the operator's part.
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
from engine.operator.plan import INGRESS_PATH_KIND
from engine.operator.state import OperatorState
from engine.ports import Manifest, ObjectKey
from engine.runtime.fold import Fold
from sandbox.stack import kubernetes_client

DEPLOYMENTS = 200
PATIENCE = 600.0
"""Seconds to wait for all deployments."""
COLLECTIONS = (
    "/apis/apps.langchain.ai/v1alpha1/namespaces/{ns}/lgps",
    "/apis/apps/v1/namespaces/{ns}/deployments",
    "/apis/apps/v1/namespaces/{ns}/statefulsets",
    "/api/v1/namespaces/{ns}/services",
    "/api/v1/namespaces/{ns}/secrets",
)
"""API paths of all kinds that an Agent Server's objects have."""


CLIENT = "client"
LEAST_CPU = 0.1
"""CPU seconds; the table omits processes that used less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The result of another client that applies the same objects."""

    seconds: float
    cpu: dict[str, float]
    """CPU seconds by process; empty where the system does not report them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converged:
    """The result of the stack."""

    seconds: float
    """From the first request to the control plane until the last object is applied."""
    created: float
    """From the first request until the control plane has created all deployments."""
    first_applied: float
    """From the first request until all objects of one deployment are applied."""
    cpu: dict[str, float]
    """CPU seconds by process; empty where the system does not report them."""


def measure(options: Options) -> Report:
    deployments = options.deployments or DEPLOYMENTS
    overrides = {"HEALTH_CHECK_ENABLED": "false", "ROLLOUT_DEADLINE_SECONDS": "3600"}
    with running(options, overrides=overrides) as world:
        converged = converge(world, deployments, options.say)
        world.stack.stop_engine()
        manifests = expected_manifests(world)
        check(world, manifests)
        options.say(f"{len(manifests):,} objects applied; a bare client now applies the same objects")
        wait_for_pods(world.stack.namespace, world)
        bare = timed(world, lambda: raw_limit(world, manifests))
        wait_for_pods("raw", world)
        options.say("an operator written with Kopf now applies the same objects")
        kopf = timed(world, lambda: peer.converge(world.stack, manifests))
    report = Report(name="convergence", title=f"{deployments} deployments at once ({world.stack.cluster})")
    show(report, deployments, len(manifests), converged, bare, kopf)
    return report


def timed(world: World, work: Callable[[], tuple[float, float]]) -> Compared:
    """Run `work`, which returns its seconds and the CPU seconds of its client; add the CPU seconds of the stack."""
    before = cpu_by_process(world)
    seconds, client = work()
    return Compared(seconds=seconds, cpu={**used(before, cpu_by_process(world)), CLIENT: client})


def raw_limit(world: World, manifests: list[Manifest]) -> tuple[float, float]:
    """Apply all manifests with the bare client; return its seconds and CPU seconds."""
    cpu = time.process_time()
    seconds = raw.apply_all(world.stack.kubeconfig, "raw", manifests)
    return seconds, time.process_time() - cpu


def show(report: Report, deployments: int, objects: int, run: Converged, bare: Compared, kopf: Compared) -> None:
    counted = objects * deployments / (deployments + 1)  # without those of the deployment that warmed the stack up
    rate, limit = counted / run.seconds, objects / bare.seconds
    each = f"{counted / deployments:g} objects each"
    report.add("all objects of all deployments", run.seconds, "s", note=each)
    report.add("of this, creating deployments on the control plane", run.created, "s")
    report.add("first deployment complete", run.first_applied, "s")
    report.add("agentplane", rate, "objects/s", note=f"{deployments / run.seconds:.3g} deployments/s")
    report.add("raw limit", limit, "objects/s", note=f"{bare.seconds:.3g} s, {raw.CONNECTIONS} connections")
    report.add("agentplane / raw limit", rate / limit)
    report.add(
        "Kopf operator", objects / kopf.seconds, "objects/s", note="from LGPs on: no control plane, no event log"
    )
    report.add("Kopf operator / raw limit", bare.seconds / kopf.seconds)
    if run.cpu:
        note = "of all processes, including the API server; depends less on the load of the machine than times do"
        report.add("CPU: agentplane", 1000 * sum(run.cpu.values()) / counted, "ms/object", note=note)
        report.add("CPU: raw limit", 1000 * sum(bare.cpu.values()) / objects, "ms/object")
        report.add("CPU: Kopf operator", 1000 * sum(kopf.cpu.values()) / objects, "ms/object")
        report.details.append(cpu_table(run, bare, kopf))


def cpu_table(run: Converged, bare: Compared, kopf: Compared) -> Detail:
    """Return the table of CPU seconds by process."""
    times = (run.cpu, bare.cpu, kopf.cpu)
    names = [name for name in (*run.cpu, CLIENT) if max(cpu.get(name, 0.0) for cpu in times) >= LEAST_CPU]
    rows = [(name, *(_cpu(cpu.get(name, 0.0)) for cpu in times)) for name in names]
    rows.append(("all", *(_cpu(sum(cpu.values())) for cpu in times)))
    rows.append(("wall clock", *(f"{seconds:.1f}" for seconds in (run.seconds, bare.seconds, kopf.seconds))))
    return Detail(title="CPU seconds", columns=("process", "agentplane", "raw limit", "Kopf"), rows=rows)


def _cpu(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= LEAST_CPU else ""


# --- the run


def converge(world: World, deployments: int, say: Say) -> Converged:
    """Create deployments and wait until all objects of each are applied. Raises TimeoutError."""
    progress = Progress(world)
    world.create("warm-up")
    eventually("all objects of the first deployment are applied", 120, lambda: progress.read().complete >= 1)
    cpu = cpu_by_process(world)
    names = [f"agent-{number}" for number in range(deployments)]
    started, start = datetime.now(UTC), time.perf_counter()
    with ThreadPoolExecutor(1) as aside:
        creating = aside.submit(world.create_all, names)
        creating.add_done_callback(lambda _: seconds.append(time.perf_counter() - start))
        seconds: list[float] = []
        reported = 0

        def done() -> bool:
            nonlocal reported
            complete = progress.read().complete - 1
            if complete - reported >= max(deployments // 4, 1):
                reported = complete
                say(f"{complete} of {deployments} after {time.perf_counter() - start:.1f} s")
            return complete >= deployments

        eventually(f"all objects of {deployments} deployments are applied", PATIENCE, done, pause=0.1)
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
    """The LGPs whose objects are all applied, read from the growing log."""

    world: World
    completed: dict[str, datetime] = field(default_factory=dict)
    """LGP stream → time at which its last object was applied."""
    _position: int = 0
    _applied: dict[str, set[str]] = field(default_factory=dict)
    _plan: int = 0
    """How many objects an LGP has; all LGPs have the same number."""

    @property
    def complete(self) -> int:
        return len(self.completed)

    def read(self) -> Progress:
        """Read the new records of the log."""
        while records := self.world.events.read_all(self._position):
            self._position = records[-1].position
            for record in records:
                if record.type == "ObjectsApplied":
                    self._count(record)
        return self

    def _count(self, record: Record) -> None:
        applied = self._applied.setdefault(record.stream, set())
        applied |= {str(ObjectKey(**found["key"])) for found in record.data["objects"]}
        if not self._plan:
            machine = operator(self.world)
            self._plan = len(machine.plan(folded(machine, self.world, record.stream)).objects)
        if len(applied) >= self._plan:
            self.completed.setdefault(record.stream, record.at)


def folded(machine: Any, world: World, stream: str) -> Any:
    """Return the folded state of a stream."""
    fold = Fold(machine, world.events, stream)
    fold.catch_up()
    return fold.state


def operator(world: World) -> OperatorMachine:
    return OperatorMachine(bootstrap.operator_config(world.settings))


def used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return the CPU seconds by process between two measurements."""
    return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}


def cpu_by_process(world: World) -> dict[str, float]:
    """Return the CPU seconds of all processes of the stack, including their children."""
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
    """Return the program name of a process, "?" when the system does not report it."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "?"


# --- the applied objects


def expected_manifests(world: World) -> list[Manifest]:
    """Return the manifests of all objects that the log records as applied, without routes and real secret values.

    Raises RuntimeError when an object of a plan was not applied.
    """
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
            raise RuntimeError(f"{stream}: objects of the plan are not applied: {missing or list(lgp.rejected)}")
        found += [manifest for manifest in machine.manifests(lgp) if manifest["kind"] != INGRESS_PATH_KIND]
    return found


def check(world: World, manifests: list[Manifest]) -> None:
    """Check that the API server has all objects of the log. Raises RuntimeError when one is missing."""
    expected = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    present: set[tuple[str, str]] = set()
    with kubernetes_client(world.stack.kubeconfig) as http:
        for path in COLLECTIONS:
            for item in collection(http, path.format(ns=world.stack.namespace)):
                present.add((item["kind"], item["metadata"]["name"]))
    if missing := expected - present:
        raise RuntimeError(f"the API server lacks {len(missing)} applied objects of the log: {sorted(missing)[:3]}")


def collection(http: httpx.Client, path: str) -> list[Manifest]:
    """Return all objects of a collection."""
    listed = http.get(path).raise_for_status().json()
    kind = listed["kind"].removesuffix("List")
    return [{**item, "kind": kind} for item in listed["items"]]


def wait_for_pods(namespace: str, world: World) -> None:
    """Wait until the controllers have created all pods: this work must not disturb the next measurement."""
    with kubernetes_client(world.stack.kubeconfig) as http:
        wait_until_constant(lambda: len(collection(http, f"/api/v1/namespaces/{namespace}/pods")))


def wait_until_constant(number: Callable[[], int], seconds: float = 2.0) -> None:
    """Wait until `number` has returned the same value for `seconds`, at most two minutes."""
    known, since = -1, time.monotonic()
    deadline = time.monotonic() + 120
    while time.monotonic() - since < seconds and time.monotonic() < deadline:
        if (now := number()) != known:
            known, since = now, time.monotonic()
        time.sleep(0.25)
