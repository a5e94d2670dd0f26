"""Random operations on many deployments, killed pods and one drain; at the end every deployment is as requested.

TESTS_CLUSTER_SLOW=1 runs the test, TESTS_CLUSTER_DAY_SECONDS is its length, and TESTS_CLUSTER_DAY_SEED repeats a run.
The message of a failure names the seed.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from engine.names import lgp_name
from tests.cluster import place
from tests.cluster.cluster import LGPS, PODS, Cluster, fetch
from tests.cluster.data_plane import ELSEWHERE, DataPlane, doubled
from tests.support.eventually import eventually

SECONDS = float(os.environ.get("TESTS_CLUSTER_DAY_SECONDS", "90"))
SEED = int(os.environ.get("TESTS_CLUSTER_DAY_SEED", secrets.randbelow(1 << 30)))
MOST = 40 if SECONDS >= 300 else 16
"""Largest number of deployments at the same time."""
SETTLING = 240.0
"""Seconds after the last operation until every deployment must be as requested."""

pytestmark = [
    pytest.mark.timeout(SECONDS + 2 * SETTLING + 120),
    place.slow,
]


@dataclass
class Day:
    """Random operations of users and the cluster on a data plane, and the last request for each deployment."""

    cluster: Cluster
    plane: DataPlane
    chance: random.Random
    asked: dict[str, str] = field(default_factory=dict)
    """Name of each deployment → its id."""
    failing: set[str] = field(default_factory=set)
    """Names of deployments whose latest revision cannot start."""
    deleted: list[str] = field(default_factory=list)
    """Names of the LGPs of deployments that were deleted."""
    secret: str = field(default_factory=lambda: f"s3cret-{secrets.token_hex(8)}")
    done: list[str] = field(default_factory=list)

    def create(self) -> None:
        if len(self.asked) >= MOST:
            return
        name = f"day-{len(self.asked) + len(self.deleted)}"
        image = self.chance.choice(place.images("STUB"))
        self.asked[name] = self.plane.workspace.create(name, image, env={**ELSEWHERE, "TOKEN": self.secret})

    def update(self) -> None:
        name = self._any()
        env = {**ELSEWHERE, "TOKEN": f"{self.secret}-{self.chance.random()}"}
        self.plane.workspace.update(self.asked[name], image=self.chance.choice(place.images("STUB")), env=env)
        self.failing.discard(name)

    def break_(self) -> None:
        name = self._any()
        self.plane.workspace.update(self.asked[name], env={**ELSEWHERE, "STUB_CRASH": "out of luck"})
        self.failing.add(name)

    def delete(self) -> None:
        name = self._any()
        deployment_id = self.asked.pop(name)
        self.failing.discard(name)
        self.plane.workspace.delete(deployment_id)
        self.deleted.append(lgp_name(name, deployment_id))

    def kill_agent(self) -> None:
        self._kill(self.plane.agents)

    def kill_process(self) -> None:
        self._kill(self.plane.namespace)

    def drain(self) -> None:
        """Evict every pod of both namespaces, as `kubectl drain` does to a node."""
        for node in self.cluster.listed("/api/v1/nodes", ""):
            name = node["metadata"]["name"]
            self.cluster.kubectl("cordon", name)
            try:
                for namespace in (self.plane.namespace, self.plane.agents):
                    for pod in self.cluster.listed(PODS, namespace):
                        path = f"{PODS.format(ns=namespace)}/{pod['metadata']['name']}/eviction"
                        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {**named(pod)}}
                        self.cluster.http.post(path, json=body)
            finally:
                self.cluster.kubectl("uncordon", name)

    def _any(self) -> str:
        return self.chance.choice(sorted(self.asked))

    def _kill(self, namespace: str) -> None:
        pods = self.cluster.listed(PODS, namespace)
        if pods:
            name = self.chance.choice(sorted(pod["metadata"]["name"] for pod in pods))
            body = {"gracePeriodSeconds": self.chance.choice([0, 1])}
            self.cluster.http.request("DELETE", f"{PODS.format(ns=namespace)}/{name}", json=body)

    def live(self) -> None:
        """Do random operations until SECONDS have passed; the drain comes halfway."""
        often: list[tuple[Callable[[], None], int]] = [
            (self.create, 8),
            (self.update, 6),
            (self.break_, 1),
            (self.delete, 2),
            (self.kill_agent, 2),
            (self.kill_process, 1),
        ]
        operations = [operation for operation, times in often for _ in range(times)]
        started, drained = time.monotonic(), False
        for _ in range(4):
            self.create()
        while (passed := time.monotonic() - started) < SECONDS:
            operation = self.chance.choice(operations if len(self.asked) > 2 else [self.create])
            if not drained and passed > SECONDS / 2:
                operation, drained = self.drain, True
            operation()
            self.done.append(operation.__name__)
            time.sleep(self.chance.uniform(0.2, 1.5))


def named(pod: dict[str, dict[str, str]]) -> dict[str, str]:
    return {key: pod["metadata"][key] for key in ("name", "namespace")}


def test_after_random_operations_every_deployment_is_as_requested(cluster: Cluster, plane: DataPlane) -> None:
    print(f"TESTS_CLUSTER_DAY_SEED={SEED}")
    day = Day(cluster, plane, random.Random(SEED))

    day.live()

    assert {"create", "update", "delete", "drain"} <= set(day.done), f"seed {SEED}: {day.done}"
    eventually(lambda: not unsettled(day), f"seed {SEED}: every revision is deployed or failed", SETTLING)
    eventually(lambda: acknowledged(plane), f"seed {SEED}: no stream waits for a worker", SETTLING)
    assert set(day.asked) == {one["name"] for one in plane.workspace.deployments()}, f"seed {SEED}"
    assert wrong(day) == [], f"seed {SEED}"
    assert [name for name in day.deleted if cluster.objects_of(plane.agents, name)] == [], f"seed {SEED}"
    lgps = {lgp["metadata"]["name"] for lgp in cluster.listed(LGPS, plane.agents)}
    assert lgps == {lgp_name(name, deployment_id) for name, deployment_id in day.asked.items()}, f"seed {SEED}"
    assert doubled(plane.log()) == [], f"seed {SEED}"
    exported = plane.agentplane("export")
    assert day.secret not in exported, f"seed {SEED}"
    assert plane.workspace.key not in exported, f"seed {SEED}"
    plane.agentplane("replay", "--live")  # exits with 1 if today's code and the log disagree

    plane.workspace.delete(*day.asked.values())
    eventually(lambda: not plane.workspace.deployments(), "every deployment is gone", SETTLING)


def unsettled(day: Day) -> list[str]:
    """Return the names of deployments whose latest revision has not reached its expected status."""
    found = {one["name"]: one for one in day.plane.workspace.deployments()}
    waiting = [name for name in found if name not in day.asked]
    for name in day.asked:
        expected = "DEPLOY_FAILED" if name in day.failing else "DEPLOYED"
        if day.plane.workspace.revision(name) != expected:
            waiting.append(name)
    return waiting


def acknowledged(plane: DataPlane) -> bool:
    """Whether the data plane says that no deployment waits for a worker."""
    return "; 0 deployments are waiting for a worker;" in plane.agentplane("status", check=False)


def wrong(day: Day) -> list[str]:
    """Return the names of Agent Servers that do not serve their latest revision."""
    found = {one["name"]: one for one in day.plane.workspace.deployments()}
    serving = {name: one for name, one in found.items() if name not in day.failing and one["active_revision_id"]}

    def serves(name: str) -> bool:
        answer = fetch(serving[name]["source_config"]["custom_url"], "/info")
        expected = serving[name]["latest_revision_id"]
        return answer.is_success and bool(answer.json()["host"]["revision_id"] == expected)

    return [name for name in serving if not serves(name)]
