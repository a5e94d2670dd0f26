"""Real scaling by KEDA and HPAs: workers of the data plane, queue workers and API servers of Agent Servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import httpx
import pytest

from tests.chart.rendering import RELEASE, Values
from tests.cluster import place
from tests.cluster.cluster import DEPLOYMENTS, PODS, Cluster, Manifest, outside
from tests.cluster.data_plane import ELSEWHERE, DataPlane, doubled
from tests.support.eventually import eventually

BURST = 30
UNABLE = "unable"
SCALERS = "/apis/autoscaling/v2/namespaces/{ns}/horizontalpodautoscalers"
SCALED_OBJECTS = "/apis/keda.sh/v1alpha1/namespaces/{ns}/scaledobjects"
SMALL = {"cpu": 0.1, "memory_mb": 64, "db_cpu": 0.1, "db_memory_mb": 128, "redis_cpu": 0.1, "redis_memory_mb": 64}


@pytest.fixture(scope="module", autouse=True)
def _metrics(cluster: Cluster) -> None:
    cluster.need("metrics.k8s.io/v1beta1", "a metrics server")


@pytest.fixture
def _keda(cluster: Cluster) -> None:
    cluster.need("keda.sh/v1alpha1", "KEDA")


@pytest.fixture(autouse=True)
def _clean(plane: DataPlane) -> Iterator[None]:
    yield
    plane.workspace.delete(*(one["id"] for one in others(plane)))
    eventually(lambda: not others(plane), "every deployment of the case is gone")


def others(plane: DataPlane) -> list[Manifest]:
    """Return the deployments of the current case: all but the deployment UNABLE, which cases share."""
    return [one for one in plane.workspace.deployments() if one["name"] != UNABLE]


@pytest.fixture(scope="module")
def unable(cluster: Cluster, plane: DataPlane) -> Iterator[str]:
    """The name of a deployment whose queue workers KEDA cannot scale: its database has no table `run` yet.

    The operator reports that only after three minutes, so the deployment is made before the other cases.
    """
    cluster.need("keda.sh/v1alpha1", "KEDA")
    spec = {**SMALL, "min_scale": 1, "max_scale": 3}
    made = plane.workspace.create(UNABLE, place.images("STUB")[0], env={}, spec=spec)
    plane.workspace.wait_until_deployed(120)
    yield UNABLE
    plane.workspace.delete(made)
    eventually(lambda: not plane.workspace.deployments(), "every deployment is gone")


@contextmanager
def replica_counts(cluster: Cluster, namespace: str, name: str) -> Iterator[list[int]]:
    """Watch a Deployment; yields the list of its requested replica counts, in order of time."""
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            asked = cluster.deployment(namespace, name)["spec"]["replicas"]
            if not seen or seen[-1] != asked:
                seen.append(asked)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join(30)


def by_queues() -> Values:
    """Return values with which KEDA scales workers with few threads by the length of their queues."""
    keda = {"enabled": True, "queueLength": 4, "pollingInterval": 5, "scaleDownSeconds": 5}
    scaled = {"autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 3, "keda": keda}, "threads": 2}
    return {"listener": scaled, "operator": scaled}


def fixed() -> Values:
    """Return values with one worker per component and no autoscaling."""
    alone = {"autoscaling": {"enabled": False}, "threads": 16}
    return {"listener": alone, "operator": alone}


@pytest.mark.usefixtures("unable")
def test_keda_scales_the_workers_by_their_queues_and_nothing_is_lost(cluster: Cluster, plane: DataPlane) -> None:
    plane.upgrade(by_queues())
    names = [f"{RELEASE}-listener", f"{RELEASE}-operator"]
    eventually(lambda: all(replicas(cluster, plane, name) == 1 for name in names), "each starts with one worker")
    stub, _ = place.images("STUB")

    watched = [replica_counts(cluster, plane.namespace, name) for name in names]
    with watched[0] as listeners, watched[1] as operators:
        created = [plane.workspace.create(f"burst-{number}", stub) for number in range(BURST)]
        plane.workspace.wait_until_deployed(seconds=180)
        plane.workspace.delete(*created)
        eventually(lambda: not others(plane), "every deployment is gone", 180)
        eventually(lambda: all(replicas(cluster, plane, name) == 1 for name in names), "each has one worker again", 150)

    assert max(listeners) > 1 or max(operators) > 1, (listeners, operators)
    log = plane.log()
    assert doubled(log) == []
    deployed = [record["data"]["revision_id"] for record in log if record["type"] == "RevisionDeployed"]
    assert len(deployed) >= BURST
    assert {record["stream"] for record in log if record["type"] == "DeploymentDeleted"} >= {
        f"deployment/{one}" for one in created
    }
    plane.upgrade(fixed())


def replicas(cluster: Cluster, plane: DataPlane, name: str) -> int:
    found: int = cluster.deployment(plane.namespace, name)["spec"]["replicas"]
    return found


@pytest.mark.usefixtures("_keda")
def test_queue_workers_follow_the_runs_that_wait(cluster: Cluster, plane: DataPlane) -> None:
    plane.workspace.create("queued", place.images("STUB")[0], env={}, spec={**SMALL, "min_scale": 1, "max_scale": 3})
    plane.workspace.wait_until_deployed(120)
    lgp = plane.lgp_name("queued")

    sql(plane, lgp, "create table run(run_id int, status text)")
    sql(plane, lgp, "insert into run select number, 'pending' from generate_series(1, 25) number")

    eventually(lambda: pods_of(cluster, plane, f"{lgp}-queue") == 3, "three queue workers", 150)
    assert pods_of(cluster, plane, lgp) == 1


def sql(plane: DataPlane, lgp: str, statement: str) -> None:
    """Run a statement in the Postgres of an Agent Server."""
    pod = f"{lgp}-db-0"
    command = f'PGPASSWORD=$POSTGRES_PASSWORD psql -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "{statement}"'
    eventually(
        lambda: (
            "ERROR"
            not in (
                output := plane.cluster.kubectl("-n", plane.agents, "exec", pod, "--", "sh", "-c", command, check=False)
            )
            and "refused" not in output
            and "starting up" not in output
        ),
        f"Postgres runs: {statement}",
    )


def autoscalers_of(cluster: Cluster, plane: DataPlane, lgp: str) -> list[str]:
    """Return the names of the HPAs and ScaledObjects of an Agent Server."""
    found = (*cluster.listed(SCALERS, plane.agents), *cluster.listed(SCALED_OBJECTS, plane.agents))
    return [name for one in found if lgp in (name := one["metadata"]["name"])]


def pods_of(cluster: Cluster, plane: DataPlane, name: str) -> int:
    """Count the pods of a Deployment of an Agent Server."""
    return len(cluster.listed(PODS, plane.agents, f"app={name}"))


def test_scaling_down_during_deployments_loses_nothing(cluster: Cluster, plane: DataPlane) -> None:
    names = [f"{RELEASE}-listener", f"{RELEASE}-operator"]

    def scale(count: int) -> None:
        for name in names:
            cluster.patch(f"{DEPLOYMENTS.format(ns=plane.namespace)}/{name}/scale", {"spec": {"replicas": count}})

    scale(3)
    found = partial(cluster.deployment, plane.namespace)
    eventually(
        lambda: all(found(name)["status"].get("readyReplicas") == 3 for name in names),
        "three listeners and three operators are ready",
    )
    started = datetime.now(UTC)
    stub, _ = place.images("STUB")
    for number in range(12):
        plane.workspace.create(f"down-{number}", stub)
        if number == 5:
            scale(1)
    plane.workspace.wait_until_deployed(150)

    log = [record for record in plane.log() if datetime.fromisoformat(record["at"]) > started]
    assert doubled(log) == []
    assert sum(record["type"] == "RevisionDeployed" for record in log) == 12


def condition(lgp: Manifest | None, kind: str) -> Manifest:
    """Return a condition of an LGP, or an empty one if the LGP has none of that type."""
    found = ((lgp or {}).get("status") or {}).get("conditions") or ()
    return next((one for one in found if one["type"] == kind), {})


def test_a_condition_reports_an_autoscaler_that_cannot_work_until_it_can(plane: DataPlane, unable: str) -> None:
    def autoscaling(status: str) -> Manifest | None:
        found = condition(plane.lgp(unable), "Autoscaling")
        return found if found.get("status") == status else None

    reported = eventually(lambda: autoscaling("False"), "the condition Autoscaling is False", 270)

    assert f"{plane.lgp_name(unable)}-queue" in reported["message"]
    assert "KEDA cannot read what it scales by" in reported["message"]
    assert plane.workspace.revision(unable) == "DEPLOYED"
    eventually(lambda: reported["reason"] in plane.reason(unable), "the status command gives the reason")

    sql(plane, plane.lgp_name(unable), "create table run(run_id int, status text)")

    eventually(lambda: autoscaling("True"), "the condition is True again", 150)
    eventually(lambda: plane.reason(unable) == "", "the status command gives no reason any more")


@contextmanager
def load(url: str) -> Iterator[None]:
    """Send requests that use CPU from four threads until the block ends."""
    address, headers = outside(url, "/burn")
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(headers=headers, timeout=30) as client:
            while not done.is_set():
                client.get(address)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        try:
            yield
        finally:
            done.set()


@pytest.mark.parametrize("keda", [True, pytest.param(False, marks=place.slow)], ids=["keda", "hpa"])
def test_api_servers_scale_by_cpu_until_autoscaling_is_removed(cluster: Cluster, plane: DataPlane, keda: bool) -> None:
    if keda:
        cluster.need("keda.sh/v1alpha1", "KEDA")
    plane.upgrade({"operator": {"kedaEnabled": keda}})
    spec = {**SMALL, "min_scale": 1, "max_scale": 2}
    plane.workspace.create("busy", place.images("STUB")[0], spec=spec, env={**ELSEWHERE, "STUB_BURN": "100"})
    plane.workspace.wait_until_deployed()
    lgp = plane.lgp_name("busy")
    collection = SCALED_OBJECTS if keda else SCALERS
    assert lgp in {found["metadata"]["name"] for found in cluster.listed(collection, plane.agents)}

    with load(plane.workspace.url_of("busy")):
        eventually(lambda: pods_of(cluster, plane, lgp) == 2, "two API servers", 150)

    plane.workspace.update(plane.workspace.deployment("busy")["id"], spec={**SMALL, "min_scale": 1, "max_scale": 1})
    plane.workspace.wait_until_deployed()
    eventually(lambda: not autoscalers_of(cluster, plane, lgp), "no autoscaler is left")
    eventually(lambda: pods_of(cluster, plane, lgp) == 1, "one API server again")
    plane.upgrade({"operator": {"kedaEnabled": True}})
