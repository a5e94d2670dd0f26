"""latency: the time from the poll that detects a change to the first write to Kubernetes.

How. The whole stack runs in processes of its own: Redis, control plane, API server, beat, listener, operator, watcher.
The benchmark creates deployments one after the other, each when the one before is in the cluster, so that none waits
for another. The times are those of the event log, taken from Redis' clock. The poll appends `RevisionRequested` when it
detects the change, and the listener appends `SecretsApplied` after the first write (the revision's Secret). The
difference is an upper bound. It includes a Celery message, the lock, the fold, a read of the deployment from the
control plane (secret values are fetched when they are applied), and a read and a write of Kubernetes.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.report import Report, median, quantile
from bench.world import Options, World, eventually, running
from engine.event import Record
from engine.log.contract import EventLog
from engine.names import deployment_stream, lgp_name, lgp_stream

DEPLOYMENTS = 40
BUDGET = 150.0
"""Milliseconds, median."""
WARM_UP = 3
"""Deployments that are not measured: for the first ones, processes load code and open connections."""
PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """Milliseconds from the poll's event to the events of the first write, of the LGP and of its objects."""

    secret: float
    lgp: float
    objects: float


def measure(options: Options) -> Report:
    deployments = options.deployments or DEPLOYMENTS
    overrides = {"POLL_SECONDS": "0.5", "HEALTH_CHECK_ENABLED": "false"}
    with running(options, overrides=overrides) as world:
        for number in range(WARM_UP):
            one(world, f"warm-up-{number}")
        options.say("warmed up")
        waited = [one(world, f"agent-{number}") for number in range(deployments)]
    report = Report(name="latency", title=f"from poll to cluster, {deployments} changes ({world.stack.cluster})")
    first = [w.secret for w in waited]
    report.add("to the first write (Secret): median", median(first), "ms", budget=BUDGET, note="an upper bound")
    report.add("to the first write (Secret): p95", quantile(first, 0.95), "ms")
    report.add("to the LGP: median", median([w.lgp for w in waited]), "ms")
    report.add("to the LGP: p95", quantile([w.lgp for w in waited], 0.95), "ms")
    report.add("to all objects: median", median([w.objects for w in waited]), "ms", note="through the watcher")
    report.add("to all objects: p95", quantile([w.objects for w in waited], 0.95), "ms")
    return report


def one(world: World, name: str) -> Waited:
    """Create a deployment, wait until all its objects are applied, and return the times."""
    deployment = world.create(name)
    objects = lgp_stream(world.stack.namespace, lgp_name(name, deployment))
    applied = eventually(
        f"the objects of {name} are applied",
        PATIENCE,
        lambda: first(world.events, objects, "ObjectsApplied"),
        pause=0.1,
    )
    stream = world.events.read(deployment_stream(deployment))
    seen = of_type(stream, "RevisionRequested")
    return Waited(
        secret=between(seen, of_type(stream, "SecretsApplied")),
        lgp=between(seen, of_type(stream, "LgpApplied")),
        objects=between(seen, applied),
    )


def first(events: EventLog, stream: str, type_: str) -> Record | None:
    """Return the first event of a type in a stream, None when there is none."""
    return next((record for record in events.read(stream) if record.type == type_), None)


def of_type(records: list[Record], type_: str) -> Record:
    """Return the first record of a type. StopIteration when there is none."""
    return next(record for record in records if record.type == type_)


def between(earlier: Record, later: Record) -> float:
    """Return the time between two records, milliseconds."""
    return (later.at - earlier.at).total_seconds() * 1000
