"""The commands `agentplane uninstall` and `agentplane leases`, beside a running data plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from cli import uninstall
from cli.main import app
from engine.names import DEPLOYMENT_LABEL, lgp_stream
from engine.settings import variable
from sandbox.control_plane.server import ControlPlane
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.listener_stack import KEY, WORKSPACE, Listener, at_work
from tests.support.operator_stack import lgp_manifest

pytestmark = pytest.mark.parametrize("api_server", ["embedded"], indirect=True)
"""A real garbage collector takes half a minute to learn of a new kind; tests/installation waits for one."""


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


@pytest.fixture
def data_plane(
    plane: ControlPlane, api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Listener]:
    """Run both components, and let commands find their event log."""
    options: dict[str, Any] = {"operator_enabled": True, "ingress_enabled": False, "health_check_enabled": False}
    with at_work(plane, api_server, namespace, **options) as listener:
        monkeypatch.setattr(uninstall, "event_log", lambda: listener.events)
        yield listener


LISTENER = "22222222-2222-4222-8222-222222222222"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_agent_servers_go_before_the_data_plane_and_come_back_when_that_is_cancelled(data_plane: Listener) -> None:
    ids = [data_plane.deploy("one"), data_plane.deploy("two")]
    keys = {id: data_plane.key(id, name) for id, name in zip(ids, ("one", "two"), strict=True)}
    cluster = data_plane.engine.ports.cluster
    by_hand = lgp_manifest(data_plane.namespace, "by-hand")
    cluster.apply(by_hand, manager="somebody")
    for key in keys.values():
        stream = lgp_stream(key.namespace, key.name)
        eventually(lambda: data_plane.events.version(stream) > 1, "the objects of the LGP exist")  # noqa: B023

    code, output = run("uninstall", "--delete-agents")
    assert code == 1
    assert "nothing was changed; give --yes to delete 2 Agent Servers, including their databases" in output
    assert all(cluster.get(key) for key in keys.values())

    code, output = run("uninstall", "--delete-agents", "--yes", "--wait", "60")
    assert (code, "2 Agent Servers deleted; polls have stopped" in output) == (0, True), output
    assert f"left in place, because this listener did not write it: LGP {data_plane.namespace}/by-hand" in output
    assert not any(cluster.get(key) for key in keys.values())
    assert [s for s in data_plane.secrets() if DEPLOYMENT_LABEL in s["metadata"]["labels"]] == []
    left = cluster.list("apps/v1", "Deployment", data_plane.namespace)
    assert {m["metadata"]["labels"]["agentplane.dev/lgp"] for m in left} == {"by-hand"}
    assert data_plane.engine.poll().outcome == "removing"

    assert run("uninstall", "--cancel") == (
        0,
        "the removal is cancelled; the next poll deploys what the control plane lists\n",
    )
    for key in keys.values():
        eventually(lambda: cluster.get(key), "what the control plane lists is deployed anew")  # noqa: B023


def test_a_removal_that_cannot_finish_names_the_remaining_objects(data_plane: Listener) -> None:
    deployment_id = data_plane.deploy()
    cluster, key = data_plane.engine.ports.cluster, data_plane.key(deployment_id)
    eventually(lambda: cluster.get(key), "the LGP is there")
    cluster.patch(key, {"metadata": {"finalizers": ["example.com/wait"]}})

    code, output = run("uninstall", "--delete-agents", "--yes", "--wait", "3")

    assert code == 1
    assert f"still there: hello ({deployment_id}): the data plane is being removed by" in output
    cluster.patch(key, {"metadata": {"finalizers": None}})
    assert run("uninstall", "--delete-agents", "--yes", "--wait", "60")[0] == 0


def test_leases_are_shown_taken_and_released(
    api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def i_am(prefix: str) -> None:
        for name, value in {"prefix": prefix, "watch_namespaces": namespace, "lease_seconds": "5"}.items():
            monkeypatch.setenv(variable(name), value)
        monkeypatch.setenv(variable("lock_seconds"), "2")
        monkeypatch.setenv(variable("kubeconfig"), str(api_server.kubeconfig))

    monkeypatch.setenv("COLUMNS", "200")  # so that no line is wrapped
    i_am("ours")
    assert "free: the first data plane that writes there takes the lease" in run("leases")[1]
    assert run("leases", "take", namespace) == (0, f"this data plane holds namespace {namespace}\n")
    shown = orjson.loads(run("leases", "--json")[1])
    assert (shown["holder"], shown["ours"]) == ("ours/operator", True)

    i_am("theirs")
    code, output = run("leases")
    assert (code, "held by another data plane" in output) == (1, True)
    code, output = run("leases", "take", namespace)
    assert code == 2
    assert f"namespace {namespace} is held by 'ours/operator', which is alive" in output
    assert run("leases", "release") == (0, f"namespace {namespace} is not ours\n")
    assert run("leases", "take", "elsewhere")[0] == 2

    eventually(
        lambda: f"the lease has expired: `agentplane leases take {namespace}`" in run("leases")[1],
        "the lease has expired",
    )
    code, output = run("leases", "take", namespace)
    assert code == 0
    assert output == f"this data plane now holds namespace {namespace}; the holder before was 'ours/operator'\n"
    assert run("leases", "release") == (0, f"namespace {namespace} is released\n")

    monkeypatch.setenv(variable("share_namespaces"), "true")
    monkeypatch.setenv(variable("listener_id"), LISTENER)
    output = f"namespace {namespace} is shared: its lease expires when no data plane renews it\n"
    assert run("leases", "release") == (0, output)
