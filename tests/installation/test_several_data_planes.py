"""Two data planes in one cluster, on one Redis: the layouts of the guide, with the example values, end to end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import pytest
import redis

from engine.names import LISTENER_LABEL
from sandbox.redis import RedisServer
from tests.chart.rendering import layered
from tests.installation.cluster import LGPS, Cluster, Installation, Workspace, example, placed, stub, waiting

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def shared_redis() -> Iterator[RedisServer]:
    """A Redis that only the two data planes of a layout use."""
    with RedisServer() as server:
        yield server


@dataclass
class DataPlane:
    """One of the two data planes of a layout."""

    workspace: Workspace
    release: Installation
    namespaces: list[str]

    def lgps(self) -> set[str]:
        """Return the names of the LGPs that carry the id of this data plane's listener."""
        own = f"{LISTENER_LABEL}={self.workspace.listener}"
        found = [lgp for namespace in self.namespaces for lgp in self.release.cluster.listed(LGPS, namespace, own)]
        return {lgp["metadata"]["name"] for lgp in found}

    def objects(self, lgps: set[str]) -> dict[str, str]:
        """Return the uids of all objects of these LGPs, by `<namespace> <collection> <name>`."""
        return {
            f"{namespace} {name}": uid
            for namespace in self.namespaces
            for name, uid in self.release.cluster.uids(namespace).items()
            if any(lgp in name for lgp in lgps)
        }

    def names(self) -> set[str]:
        """Return ids, keys and names that no other data plane may store or log."""
        deployments = {one["id"] for one in self.workspace.deployments()}
        return {self.workspace.id, self.workspace.listener, self.workspace.key, *deployments, *self.lgps()}

    def deploy(self) -> None:
        """Create one deployment in each namespace."""
        for number, namespace in enumerate(self.namespaces):
            self.workspace.create(f"agent-{number}", stub(1), namespace)

    def answers(self) -> bool:
        """Whether all Agent Servers answer at their endpoints."""
        endpoints = [one["source_config"]["custom_url"] for one in self.workspace.deployments()]
        return all(self.release.cluster.get(f"{endpoint}/ok").is_success for endpoint in endpoints)

    def delete(self) -> None:
        """Delete all deployments, and wait until nothing is left."""
        for deployment in self.workspace.deployments():
            self.workspace.http.delete(f"/v2/deployments/{deployment['id']}").raise_for_status()
        waiting(lambda: not self.workspace.deployments(), "the deployments are gone")

    def wrote(self) -> str:
        """Return the whole event log and the logs of all processes as one text."""
        with self.release.log() as log:
            events = b"".join(orjson.dumps(record, default=str) for record in log.read_all(limit=100_000))
        return events.decode() + self.release.cluster.output(self.release.namespace)


def install(cluster: Cluster, redis_url: str, name: str) -> DataPlane:
    """Install an example as its head says, with the ids that the control plane gave."""
    values, (release_name, own) = example(name), placed(name)
    namespaces = values["config"]["watchNamespaces"].split(",")
    workspace = cluster.workspace(*namespaces)
    for namespace in namespaces:
        cluster.make(namespace)
    secrets = {"langsmith": {"langsmith_api_key": workspace.key}, "redis": {"connection_url": redis_url}}
    cluster.make(own, secrets)
    ids = {"langsmithWorkspaceId": workspace.id, "langgraphListenerId": workspace.listener}
    release = Installation(cluster, own, layered(values, cluster.local(), {"config": ids}), release_name)
    release.upgrade()
    return DataPlane(workspace, release, namespaces)


def foreign_names(client: redis.Redis, planes: list[DataPlane]) -> list[str]:
    """Return the keys and channels in Redis that do not belong to exactly one of the data planes."""
    prefixes = [plane.release.environment()["AGENTPLANE_PREFIX"] for plane in planes]
    names = [name.decode() for name in (*client.scan_iter(count=1000), *client.pubsub_channels())]
    owners = {name: [p for p in prefixes if name.startswith((f"{p}:", f"{{{p}}}:"))] for name in names}
    assert all(any(found == [prefix] for found in owners.values()) for prefix in prefixes)
    return [name for name, found in owners.items() if len(found) != 1]


@pytest.mark.parametrize("layout", ["shared-dev-cluster", "namespace-per-workspace", "shared-namespace"])
def test_two_workspaces_share_a_cluster_and_a_redis_and_never_meet(
    cluster: Cluster, shared_redis: RedisServer, layout: str
) -> None:
    cluster.forget_lgps()
    cluster.serve("gateway.networking.k8s.io", "v1", "HTTPRoute")
    cluster.serve("networking.istio.io", "v1", "VirtualService")
    a, b = (install(cluster, shared_redis.url, f"{layout}-{letter}") for letter in "ab")

    for plane in (a, b):
        plane.deploy()
    for plane in (a, b):
        plane.workspace.wait_until_deployed()
        plane.release.wait_until_idle(*plane.namespaces)
        assert plane.answers()
        assert len(plane.lgps()) == len(plane.namespaces)
    everything = {lgp["metadata"]["name"] for lgp in cluster.listed(LGPS.replace("namespaces/{ns}/", ""), "")}
    assert everything == a.lgps() | b.lgps()

    # a deletion in one data plane changes nothing in the other
    own, others, names = a.lgps(), b.lgps(), [a.names(), b.names()]
    kept = a.objects(own)
    b.delete()
    waiting(lambda: not b.objects(others), "nothing of the deployments of B is left")
    assert a.objects(own) == kept
    assert a.answers()

    # nothing is mixed up in keys, queues and channels in Redis, in events, and in logs
    with redis.Redis.from_url(shared_redis.url) as client:
        assert foreign_names(client, [a, b]) == []
    wrote = [a.wrote(), b.wrote()]
    assert [name for name in names[1] if name in wrote[0]] == []
    assert [name for name in names[0] if name in wrote[1]] == []
    assert all(plane.workspace.listener in text for plane, text in zip((a, b), wrote, strict=True))
    assert not any(plane.workspace.key in text for plane in (a, b) for text in wrote)

    for plane in (a, b):
        plane.release.uninstall()
    assert a.objects(own) == kept
