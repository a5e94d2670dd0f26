"""The doctor's table of permissions suffices: the whole data plane works with a Role of exactly these permissions.

A real kube-apiserver with RBAC, and every process of the engine as a service account whose Role is made from the
table. A deployment is created, updated, repaired after drift, and deleted; the API server refuses no request.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.kubernetes.permissions import needed, together
from engine.settings import Settings
from sandbox import envtest
from sandbox.demo.scenario import gone
from sandbox.demo.world import World, image
from sandbox.stack import Cluster, Ports, Stack, kubernetes_client
from tests.support.eventually import eventually
from tests.support.service_accounts import account, rules

HELLO = "hello"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    if reason := envtest.available():
        pytest.skip(f"real API server: {reason}")
    overrides: dict[str, str] = {}
    stack = Stack(
        cluster=Cluster.ENVTEST,
        directory=tmp_path,
        ports=Ports.reserve(),
        overrides=overrides,
        without=frozenset({"flower"}),
    )

    def confine(name: str) -> None:
        """Give the engine an account with only the Role; the infrastructure runs by then, the engine does not."""
        if name != "kubelet":
            return
        for variable, value in stack.environment().items():
            if variable.startswith("AGENTPLANE_"):
                monkeypatch.setenv(variable, value)
        allowed = rules(together(needed(Settings.load()).values()))
        with kubernetes_client(stack.kubeconfig) as http:
            confined = account(stack.kubeconfig, http, stack.namespace, allowed, tmp_path)
        overrides["KUBECONFIG"] = str(confined)

    try:
        stack.start(confine)
        yield World(stack)
    finally:
        stack.stop()
        stack.ports.give_back()


def test_the_whole_life_of_a_deployment_takes_no_more(world: World) -> None:
    first = world.deploy(HELLO, image(HELLO, 1), {"GREETING_SECRET": "one"})
    assert first.returncode == 0, first.stdout + first.stderr
    deployment = world.deployment(HELLO)["id"]
    lgp = world.lgp(HELLO)

    second = world.deploy(HELLO, image("hello2", 2), {"GREETING_SECRET": "two"})
    assert second.returncode == 0, second.stdout + second.stderr

    for kind in ("deployments", "statefulsets"):
        name = lgp if kind == "deployments" else f"{lgp}-db"
        path = f"/apis/apps/v1/namespaces/{world.stack.namespace}/{kind}/{name}"
        before = world.kubernetes.get(path).raise_for_status().json()["metadata"]["uid"]
        world.kubernetes.delete(path).raise_for_status()
        eventually(partial(came_back, world, path, before), f"{kind} {name} is back", 30)

    deleted = world.langgraph("delete", deployment, "--force", folder=world.project(HELLO, {}))
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    eventually(lambda: gone(world, deployment), "the control plane deletes the deployment", 60)
    eventually(lambda: not world.objects_of(lgp), "no object of the LGP is left in the cluster", 60)

    refusals = [
        (record.type, record.data.get("reason") or record.data.get("message"))
        for record in (*world.deployment_events(deployment), *world.lgp_events(lgp))
        if record.type in ("ActRefused", "ActDeferred", "ObjectRejected", "LgpRejected")
    ]
    assert not [why for _, why in refusals if "forbidden" in str(why).lower()], refusals
    for process in ("listener", "operator", "watcher"):
        assert "forbidden" not in world.stack.log(process).read_text().lower(), process


def came_back(world: World, path: str, before: str) -> bool:
    answer = world.kubernetes.get(path)
    return answer.status_code == 200 and bool(answer.json()["metadata"]["uid"] != before)
