"""A first deployment by the setup guide: values, `helm upgrade -i --wait`, `langgraph deploy`, GET /ok.

The same installation then goes through an upgrade under load and through removal.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from engine.log.redis import RedisLog
from tests.chart.rendering import UPSTREAM, Values, at, layered
from tests.installation.cluster import (
    LGPS,
    Cluster,
    Ending,
    Installation,
    Witness,
    Workspace,
    directly,
    ready,
    stub,
    waiting,
)

HELLO = f"sandbox.local/hello@sha256:{'1' * 64}"
HOSTNAME = "agents.example.com"

pytestmark = pytest.mark.timeout(400)


def guide(workspace: Workspace, namespace: str) -> Values:
    """Return the values file of the setup guide."""
    return layered(
        workspace.values(),
        {
            "config": {"watchNamespaces": namespace, "enableLGPDeploymentHealthCheck": True},
            "ingress": {"hostname": HOSTNAME},
            "operator": {"enabled": True, "createCRDs": True},
        },
    )


def upstream() -> Values:
    """Return the default values of the upstream chart, or no values if its file is missing."""
    if not UPSTREAM.exists():
        return {}
    return dict(yaml.safe_load(UPSTREAM.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> str:
    return cluster.namespace()


@pytest.fixture(scope="module")
def workspace(cluster: Cluster, namespace: str) -> Workspace:
    return cluster.workspace(namespace)


@pytest.fixture(scope="module")
def installed(cluster: Cluster, workspace: Workspace, namespace: str) -> Iterator[Installation]:
    """The chart, installed by the guide in a cluster without any part of it."""
    cluster.forget_lgps()
    values = layered(upstream(), guide(workspace, namespace), cluster.local(), cluster.own_redis())
    release = Installation(cluster, namespace, values)
    release.upgrade()
    yield release
    release.uninstall()
    cluster.forget_lgps()


@pytest.fixture(scope="module")
def hello(installed: Installation, workspace: Workspace) -> str:
    """The URL of a first deployment, made with `langgraph deploy`: a real Agent Server."""
    deployed = workspace.langgraph_deploy("hello", HELLO, GREETING_SECRET="s3cret")
    assert deployed.returncode == 0, f"{deployed.stdout}\n{deployed.stderr}\n{installed.diagnostics()}"
    url: str = workspace.deployment("hello")["source_config"]["custom_url"]
    return url


def test_a_first_deployment(cluster: Cluster, installed: Installation, workspace: Workspace, hello: str) -> None:
    pods = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: ready(pod) for pod in installed.pods()}
    assert pods == {
        f"langgraph-dataplane-{name}": True for name in ("beat", "listener", "operator", "redis", "watcher")
    }

    deployment = workspace.deployment("hello")
    assert workspace.status(deployment) == "DEPLOYED"
    assert hello.startswith(f"http://{HOSTNAME}/lgp/hello-")
    assert cluster.get(f"{hello}/ok").json()["ok"] is True
    assert cluster.get(f"{hello}/info").json()["host"]["revision_id"] == deployment["latest_revision_id"]


def lay_load(workspace: Workspace, earlier: Sequence[str], upgraded: threading.Event) -> None:
    """Create deployments and update earlier ones during the upgrade, a few each second."""
    for number in range(32):
        if number % 4 == 0:
            workspace.update(earlier[number // 4 % len(earlier)], stub(2 + number))
        else:
            workspace.create(f"under-load-{number}", stub(1))
        upgraded.wait(0.3)


ONCE = ("RevisionRequested", "SecretsApplied", "LgpApplied", "RevisionDeployed")
"""Types of events that each revision has exactly once."""


def doubled(log: RedisLog) -> list[str]:
    """Return what the log holds more than once although it can happen only once."""
    counts: Counter[str] = Counter()
    for stream, records in log.read_many(dict.fromkeys(log.streams(), 0)).items():
        for record in records:
            if record.type == "DeploymentRegistered":
                counts[f"{stream} {record.type}"] += 1
            elif record.type in ONCE:
                counts[f"{stream} {record.type} {record.data['revision_id']}"] += 1
            elif record.type == "StatusReported":
                counts[f"{stream} {record.data['id']} {record.data['status']}"] += 1
            elif record.type == "ObjectsApplied":
                counts.update(f"{stream} {found['key']} {found['digest']}" for found in record.data["objects"])
    return [what for what, times in counts.items() if times > 1]


def test_an_upgrade_under_load_loses_and_doubles_nothing(
    cluster: Cluster, installed: Installation, workspace: Workspace, namespace: str, hello: str
) -> None:
    earlier = [workspace.create(f"earlier-{number}", stub(1)) for number in range(3)]
    workspace.wait_until_deployed()
    installed.wait_until_idle(namespace)
    objects, running = cluster.uids(namespace), cluster.agents(namespace)
    workers = [pod["metadata"]["name"] for pod in installed.pods() if "-redis-" not in pod["metadata"]["name"]]

    upgraded = threading.Event()
    with Witness(cluster, namespace) as witness, ThreadPoolExecutor(1) as aside:
        load = aside.submit(lay_load, workspace, earlier, upgraded)
        installed.upgrade(at("config.settings.request_timeout_seconds", 20))
        upgraded.set()
        load.result()
        workspace.wait_until_deployed()
        waiting(lambda: all(witness.ended(name) for name in workers), "the workers of the earlier release are gone")

    # nothing is lost
    deployments = workspace.deployments()
    assert len(deployments) == 1 + 3 + 24
    assert len(cluster.listed(LGPS, namespace)) == len(deployments)
    for deployment in deployments:
        answer = cluster.get(f"{deployment['source_config']['custom_url']}/info").json()
        assert answer["host"]["revision_id"] == deployment["latest_revision_id"], deployment["name"]

    # nothing is doubled in the log or in the cluster
    with installed.log() as log:
        assert doubled(log) == []
    assert [name for name, times in witness.added.items() if times > 1] == []
    after = cluster.uids(namespace)
    recreated = {name for name, uid in objects.items() if after.get(name) != uid}
    assert {name for name in recreated if name.split()[0] not in ("pods", "secrets")} == set()
    untouched = {uid for uid, pod in running.items() if not pod["metadata"]["name"].startswith("earlier-")}
    left = cluster.agents(namespace)
    assert untouched <= set(left)
    assert {status["restartCount"] for pod in left.values() for status in pod["status"]["containerStatuses"]} == {0}

    # each worker exited within its grace period, and its successor did work
    endings = {name: Ending.of(pod) for name in workers for pod in witness.ended(name)}
    assert len(endings) == 4
    assert {ending.code for ending in endings.values()} == {0}, endings
    assert all(ending.seconds < ending.granted for ending in endings.values()), endings
    acting = {pod["metadata"]["name"]: cluster.output(namespace, pod["metadata"]["name"]) for pod in installed.pods()}
    assert all('"acted"' in log for name, log in acting.items() if "-listener-" in name or "-operator-" in name)


def test_removal_and_a_new_installation_leave_agent_servers_untouched(
    cluster: Cluster, installed: Installation, workspace: Workspace, namespace: str, hello: str
) -> None:
    assert "keeps the Agent Servers, their LGPs and their Secrets" in installed.notes
    workspace.wait_until_deployed()
    installed.wait_until_idle(namespace)
    objects, running = cluster.uids(namespace), cluster.agents(namespace)
    serving = next(pod for pod in running.values() if pod["metadata"]["labels"]["app"] in hello)
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    assert cluster.listed(leases, namespace) != []

    installed.uninstall()

    assert cluster.listed(leases, namespace) == []
    assert cluster.uids(namespace) == objects
    assert directly(serving, "/ok").json()["ok"] is True
    assert cluster.get(f"{hello}/ok").status_code == 404  # the Ingress is deleted with the release, as the notes say

    installed.upgrade()

    waiting(lambda: cluster.get(f"{hello}/ok").status_code == 200, "the Agent Server answers again")
    workspace.create("after-all", stub(1))
    workspace.wait_until_deployed()
    after = cluster.uids(namespace)
    assert [name for name, uid in objects.items() if after.get(name) != uid] == []
    assert set(running) <= set(cluster.agents(namespace))


def test_agent_servers_are_removed_before_the_data_plane(
    cluster: Cluster, installed: Installation, workspace: Workspace, namespace: str
) -> None:
    names = {deployment["name"] for deployment in workspace.deployments()}

    done = installed.agentplane("uninstall", "--delete-agents", "--yes", "--wait", "200")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(names)} Agent Servers deleted; polls have stopped" in done.stdout
    assert cluster.listed(LGPS, namespace) == []
    waiting(lambda: not cluster.agents(namespace), "the pods of Agent Servers are gone")
    assert {deployment["name"] for deployment in workspace.deployments()} == names  # the control plane still lists them
