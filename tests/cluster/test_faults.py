"""Faults of the cluster: no free CPU, no quota, no storage class; and outages of the node, the API server and etcd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import place
from tests.cluster.cluster import CORE, LGPS, PODS, Cluster, fetch, ready
from tests.cluster.data_plane import ELSEWHERE, DataPlane, doubled
from tests.support.eventually import eventually

QUOTAS = CORE + "/namespaces/{ns}/resourcequotas"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
DEFAULT = "storageclass.kubernetes.io/is-default-class"


@pytest.fixture(autouse=True)
def _clean(plane: DataPlane) -> Iterator[None]:
    yield
    plane.workspace.delete(*(one["id"] for one in plane.workspace.deployments()))
    eventually(lambda: not plane.workspace.deployments(), "every deployment is gone")


def wait_for_condition(plane: DataPlane, name: str, words: str) -> None:
    """Wait until the message of a condition of the LGP, as `kubectl describe` shows it, contains `words`."""

    def messages() -> list[str]:
        conditions = ((plane.lgp(name) or {}).get("status") or {}).get("conditions") or ()
        return [one.get("message", "") for one in conditions]

    eventually(lambda: any(words in message for message in messages()), f"a condition of {name} says {words}")


def test_a_condition_names_the_resource_that_a_pod_lacks(plane: DataPlane) -> None:
    plane.workspace.create("large", place.images("STUB")[0], spec={"cpu": 8, "memory_mb": 64})

    wait_for_condition(plane, "large", "Insufficient cpu")

    plane.workspace.update(plane.workspace.deployment("large")["id"], spec={"cpu": 0.1, "memory_mb": 64})
    plane.workspace.wait_until_deployed()


def test_a_condition_names_an_exceeded_quota_and_its_removal_is_noticed(cluster: Cluster, plane: DataPlane) -> None:
    path = QUOTAS.format(ns=plane.agents)
    quota = {"metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}}
    cluster.http.post(path, json=quota).raise_for_status()
    try:
        plane.workspace.create("over-quota", place.images("STUB")[0])
        wait_for_condition(plane, "over-quota", "exceeded quota: no-pods")
    finally:
        cluster.http.delete(f"{path}/no-pods").raise_for_status()

    plane.workspace.wait_until_deployed(150)


def test_a_condition_names_a_claim_without_a_storage_class(cluster: Cluster, plane: DataPlane) -> None:
    classes = [
        found["metadata"]["name"]
        for found in cluster.listed(CLASSES, "")
        if (found["metadata"].get("annotations") or {}).get(DEFAULT) == "true"
    ]

    def default(value: str) -> None:
        for name in classes:
            cluster.patch(f"{CLASSES}/{name}", {"metadata": {"annotations": {DEFAULT: value}}})

    default("false")
    try:
        plane.workspace.create("unbound", place.images("STUB")[0], env={})
        wait_for_condition(plane, "unbound", "PersistentVolumeClaim")
    finally:
        default("true")

    plane.workspace.wait_until_deployed(150)  # Kubernetes assigns the new default class to the claim


class Node:
    """The programs of the node that tests/cluster/node.sh started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, name: str) -> int:
        return int((self.folder / "log" / f"{name}.pid").read_text())

    def pause(self, name: str) -> None:
        os.kill(self.process(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        os.kill(self.process(name), signal.SIGCONT)

    def restart(self, *names: str, between: Callable[[], object] = lambda: None) -> None:
        """Kill programs, call `between`, and start the programs again with their own command lines."""
        commands = {name: Path(f"/proc/{self.process(name)}/cmdline").read_bytes().split(b"\0")[:-1] for name in names}
        for name in names:
            os.kill(self.process(name), signal.SIGKILL)
        for name in names:
            eventually(partial(ended, self.process(name)), f"{name} has ended")
        between()
        for name in reversed(names):
            with (self.folder / "log" / f"{name}.log").open("ab") as log:
                started = subprocess.Popen(
                    ["nsenter", "--net=/var/run/netns/agentplane-node", *commands[name]],
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            started.returncode = 0  # nobody waits for it: it runs on, and tests/cluster/node.sh ends it by its id
            (self.folder / "log" / f"{name}.pid").write_text(str(started.pid))


def ended(process: int) -> bool:
    """Whether a process is gone, or is a zombie without threads: until its last thread ends, it keeps its ports."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(list(Path(f"/proc/{process}/task").iterdir())) == 1
    except FileNotFoundError:
        return True


@pytest.fixture
def node() -> Node:
    return Node(Path(place.variable("NODE")))


@place.slow
def test_no_revision_fails_while_the_node_is_away_for_a_minute(cluster: Cluster, plane: DataPlane, node: Node) -> None:
    plane.workspace.create("on-node", place.images("STUB")[0])
    plane.workspace.wait_until_deployed()
    before = plane.lgp_name("on-node")

    node.pause("kubelet")
    try:
        eventually(lambda: not node_ready(cluster), "the node is not ready", 90)
        plane.workspace.update(plane.workspace.deployment("on-node")["id"], image=place.images("STUB")[1])
        assert fetch(plane.workspace.url_of("on-node"), "/ok").status_code in (200, 503)
        time.sleep(10)
        assert plane.workspace.revision("on-node") not in ("DEPLOYED", "DEPLOY_FAILED")
    finally:
        node.resume("kubelet")

    eventually(lambda: node_ready(cluster), "the node is ready again")
    plane.workspace.wait_until_deployed(150)
    assert plane.lgp_name("on-node") == before
    assert fetch(plane.workspace.url_of("on-node"), "/ok").is_success


def node_ready(cluster: Cluster) -> bool:
    return all(
        condition["status"] == "True"
        for found in cluster.listed("/api/v1/nodes", "")
        for condition in found["status"]["conditions"]
        if condition["type"] == "Ready"
    )


def test_a_restart_of_the_api_server_during_deployments_loses_nothing(
    cluster: Cluster, plane: DataPlane, node: Node
) -> None:
    names = [f"meanwhile-{number}" for number in range(4)]
    for name in names:
        plane.workspace.create(name, place.images("STUB")[0])

    node.restart("apiserver")

    eventually(lambda: cluster.http.get("/readyz").is_success, "the API server answers")
    plane.workspace.wait_until_deployed(180)
    eventually(lambda: all(map(ready, plane.pods())), "every pod of the data plane is ready")
    assert all(fetch(plane.workspace.url_of(name), "/ok").is_success for name in names)
    assert doubled(plane.log()) == []


@pytest.fixture
def older(cluster: Cluster, plane: DataPlane, node: Node, tmp_path: Path) -> str:
    """Restore etcd to a copy from before deployment `after` was made and `before` was changed; return `after`."""
    stub, other = place.images("STUB")
    plane.workspace.create("before", stub)
    plane.workspace.wait_until_deployed()
    copy = tmp_path / "etcd"
    node.restart("apiserver", "etcd", between=lambda: shutil.copytree(node.folder / "etcd", copy))
    eventually(lambda: cluster.http.get("/readyz").is_success, "the API server answers")
    plane.workspace.update(plane.workspace.deployment("before")["id"], image=other, env={**ELSEWHERE, "NEW": "yes"})
    plane.workspace.create("after", stub)
    plane.workspace.wait_until_deployed(150)

    def put_back() -> None:
        shutil.rmtree(node.folder / "etcd")
        shutil.copytree(copy, node.folder / "etcd")

    node.restart("apiserver", "etcd", between=put_back)
    eventually(lambda: cluster.http.get("/readyz").is_success, "the API server answers")
    # Kubernetes requires this after a restore of etcd: these programs hold newer versions of objects than etcd does.
    node.restart("controllers", "scheduler", "kubelet")
    return "after"


@place.slow
def test_a_cluster_with_a_restored_etcd_is_brought_up_to_date(cluster: Cluster, plane: DataPlane, older: str) -> None:
    """Watches continue from versions that the restored etcd does not know; every program of the cluster restarts."""
    eventually(lambda: older in str(cluster.listed(LGPS, plane.agents)), "the LGP is back", 120)
    eventually(
        lambda: all(
            fetch(one["source_config"]["custom_url"], "/info").json()["host"]["revision_id"]
            == one["latest_revision_id"]
            for one in plane.workspace.deployments()
        ),
        "every Agent Server runs its latest revision",
        150,
    )
    assert all(map(ready, cluster.listed(PODS, plane.namespace)))
