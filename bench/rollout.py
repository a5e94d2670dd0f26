"""rollout: how many requests to Kubernetes one Agent Server needs.

How. The stack has a kubelet, so that pods start and a rollout has all its steps. The data plane runs in this process
(`plane`), which counts every request to the API server by component and path. The first rollout ends when the control
plane shows DEPLOYED and no more events follow. Then the benchmark marks every stream dirty and advances it (a resync).
At the end it replaces the watcher by a new one, which lists all objects.

Requests are counted by the path of the object, separately for each component: an apply is one read and one write. A
creation and a list count for the path of the collection. Writes of the LGP's status, which changes while pods start,
are counted separately.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from bench.plane import READ, STATUS, WRITE, Plane, at_work, lgp_path
from bench.report import Detail, Report
from bench.world import Options, World, eventually, running

PATIENCE = 120.0
"""Seconds for a rollout on a busy machine."""
HEX = re.compile(r"[0-9a-f]{32}")
COMPONENTS = ("listener", "operator")

Requests = dict[str, Counter[tuple[str, str]]]
"""Component → (READ, WRITE or STATUS, path) → number of requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The requests and events of the three parts."""

    first: Requests
    """Requests of the first rollout."""
    events: int
    """Events of the first rollout."""
    resync_writes: int
    resync_events: int
    restart_writes: int
    restart_events: int


def measure(options: Options) -> Report:
    overrides = {"POLL_SECONDS": "0.5", "LOG_LEVEL": "error"}
    with (
        running(options, processes=False, kubelet=True, overrides=overrides) as world,
        at_work(world.settings) as plane,
    ):
        deployment = world.create("hello")
        eventually("the control plane shows DEPLOYED", PATIENCE, lambda: deployed(world, deployment))
        counted = count(plane)
    report = Report(name="rollout", title=f"requests to Kubernetes for one Agent Server ({world.stack.cluster})")
    report_on(report, counted)
    return report


def deployed(world: World, deployment: str) -> bool:
    found = world.http.get(f"/v2/deployments/{deployment}").raise_for_status().json()
    return found["active_revision_id"] is not None


def count(plane: Plane) -> Counted:
    """Count requests and events of the rollout that `plane` has just finished, of a resync and of a new watcher."""
    plane.rest()
    first, events, writes = plane.requests(), plane.appended(), plane.writes()
    for _ in range(3):
        resync(plane)
    resynced, resynced_writes = plane.appended(), plane.writes()
    watcher = plane.requests()["watcher"]
    plane.restart_watcher()
    watcher_writes = sum(count for (kind, _), count in watcher.items() if kind != READ)
    return Counted(
        first=first,
        events=events,
        resync_writes=resynced_writes - writes,
        resync_events=resynced - events,
        # The new watcher has a new counter: subtract the writes of the former one from the earlier total.
        restart_writes=plane.writes() - (resynced_writes - watcher_writes),
        restart_events=plane.appended() - resynced,
    )


def resync(plane: Plane) -> None:
    """Advance every stream, and wait until the data plane rests."""
    events = plane.listener.events
    for stream in events.streams():
        events.mark_dirty(stream)
        plane.dispatch(stream)
    plane.rest(seconds=1.0)


def report_on(report: Report, counted: Counted) -> None:
    reads, writes = most(counted.first, READ), most(counted.first, WRITE)
    written = {path for component in COMPONENTS for kind, path in counted.first[component] if kind == WRITE}
    status = sum(count for (kind, _), count in counted.first["operator"].items() if kind == STATUS)
    lists = sum(count for (kind, _), count in counted.first["watcher"].items() if kind == READ)
    report.add("objects written", len(written), note="a creation counts for its collection")
    report.add("most reads of one object by one component", reads[1], budget=1, note=reads[0])
    report.add("most writes of one object by one component", writes[1], budget=1, note=writes[0])
    report.add("writes of the LGP's status", status, note="one for every visible change")
    report.add("reads by the watcher", lists, note="lists that start its watches, and discovery")
    report.add("events of the rollout", counted.events)
    report.add("resync, three times: writes", counted.resync_writes, budget=0)
    report.add("resync, three times: events", counted.resync_events, budget=0)
    report.add("new watcher: writes", counted.restart_writes, budget=0)
    report.add("new watcher: events", counted.restart_events, budget=0)
    rows = [_row(counted.first, path) for path in _paths(counted)]
    report.details.append(
        Detail(title="by object", columns=("object or collection", *(name for name, _, _ in COLUMNS)), rows=rows)
    )


def most(requests: Requests, kind: str) -> tuple[str, int]:
    """Return the object that one component read or wrote most often, and how often.

    Discovery and lists of whole collections are not reads of an object.
    """
    found = [
        (count, f"{component}: {short(path)}")
        for component in COMPONENTS
        for (what, path), count in requests[component].items()
        if what == kind and (kind != READ or is_object(path))
    ]
    count, path = max(found, default=(0, ""))
    return path, count


def is_object(path: str) -> bool:
    """Whether a path is that of one object: `/…/namespaces/<namespace>/<plural>/<name>`."""
    return len(path.partition("/namespaces/")[2].split("/")) == 3


def short(path: str) -> str:
    """Return a short form of a path: collection and object, without the deployment's id."""
    return HEX.sub("…", path.partition("/namespaces/")[2].partition("/")[2] or path)


def _paths(counted: Counted) -> list[str]:
    paths = {path for component in COMPONENTS for _, path in counted.first[component]}
    return sorted(paths, key=lambda path: (not is_object(path), not lgp_path(path), path))


COLUMNS = (
    ("listener reads", "listener", READ),
    ("listener writes", "listener", WRITE),
    ("operator reads", "operator", READ),
    ("operator writes", "operator", WRITE),
    ("status writes", "operator", STATUS),
)


def _row(requests: Requests, path: str) -> tuple[str, ...]:
    return (short(path), *(str(requests[component][kind, path] or "") for _, component, kind in COLUMNS))
