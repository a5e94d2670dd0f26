"""The budgets that count things: requests to Kubernetes for a rollout, a resync and a restart, and what a poll costs.

These budgets hold on every machine, however busy. `python -m bench` measures the budgets that depend on time. The tests
and the command use the same measuring code, in `bench`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
import redis

from bench import poll, rollout
from bench.__main__ import BENCHES, main
from bench.plane import READ, STATUS, WRITE, Plane, at_work, lgp_path
from bench.report import Report
from bench.world import Options, create
from engine.listener.poll_context import PollMemory
from engine.settings import Settings
from sandbox.control_plane.server import ControlPlane, seed
from sandbox.redis import RedisServer
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.operator_stack import Kubelet, install_crd, shared_ingress

KEY, WORKSPACE = "lsv2_sandbox_0123456789abcdef", "6e1a7a6e-0000-4000-8000-00000000b0d6"
DEPLOYMENTS = 300

# --- one Agent Server


@pytest.fixture(scope="module")
def plane(api_server: ApiServer, redis_server: RedisServer) -> Iterator[Plane]:
    """Return a data plane with one Agent Server that has just been deployed for the first time."""
    namespace = f"budgets-{secrets.token_hex(4)}"
    install_crd(api_server)
    with ExitStack() as stack:
        kubernetes = stack.enter_context(api_server.http())
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        kubernetes.post("/api/v1/namespaces", json=body).raise_for_status()
        path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses"
        kubernetes.post(path, json=shared_ingress(namespace)).raise_for_status()
        stack.enter_context(Kubelet(api_server, namespace))
        control_plane = stack.enter_context(ControlPlane({KEY: WORKSPACE}, infer_listener=True))
        listener = seed(control_plane.store, WORKSPACE, "budgets", [namespace])["id"]
        settings = settings_for(api_server, redis_server, control_plane.url, listener, namespace)
        plane = stack.enter_context(at_work(settings))
        headers = control_plane.headers()
        people = stack.enter_context(httpx.Client(base_url=control_plane.url, headers=headers, timeout=30))
        deployment = create(people, "hello")
        resource = f"/v2/deployments/{deployment}"
        eventually(lambda: people.get(resource).json()["active_revision_id"], "the deployment is deployed", 90)
        plane.rest()
        yield plane
        assert plane.failures == []


def settings_for(
    api_server: ApiServer, redis_server: RedisServer, control_plane: str, listener: str, namespace: str
) -> Settings:
    return Settings.load(
        langsmith_api_key=KEY,
        workspace_id=WORKSPACE,
        listener_id=listener,
        host_backend_url=control_plane,
        smith_backend_url=f"{control_plane}/langsmith",
        watch_namespaces=namespace,
        redis_url=redis_server.url,
        prefix=f"budgets-{secrets.token_hex(4)}",
        ingress_hostname="agents.example.com",
        health_check_enabled=False,
        poll_seconds=0.5,
        kubeconfig=str(api_server.kubeconfig),
    )


@pytest.fixture(scope="module")
def counted(plane: Plane) -> rollout.Counted:
    return rollout.count(plane)


def test_a_first_rollout_reads_and_writes_each_object_at_most_once(counted: rollout.Counted) -> None:
    for component in rollout.COMPONENTS:
        again = {
            rollout.short(path): f"{count} times {kind}"
            for (kind, path), count in counted.first[component].items()
            if kind in (READ, WRITE) and count > 1
        }
        assert again == {}, component


def test_a_first_rollout_writes_every_object_and_nothing_else(counted: rollout.Counted) -> None:
    written = [
        rollout.short(path)
        for component in rollout.COMPONENTS
        for (kind, path), count in counted.first[component].items()
        if kind == WRITE
    ]

    assert sorted(written) == [
        "deployments/hello-…",
        "deployments/hello-…-queue",
        "deployments/hello-…-redis",
        "ingresses/shared",
        "lgps/hello-…",
        "secrets",  # the database's password, created in its collection
        next(path for path in sorted(written) if path.startswith("secrets/hello-…-env-")),
        "services/hello-…",
        "services/hello-…-db",
        "services/hello-…-redis",
        "statefulsets/hello-…-db",
    ]


def test_only_the_operator_writes_a_status_and_only_the_lgps(counted: rollout.Counted) -> None:
    writers = {
        (component, lgp_path(path))
        for component, sent in counted.first.items()
        for (kind, path) in sent
        if kind == STATUS
    }

    assert writers == {("operator", True)}


def test_the_watcher_writes_nothing(counted: rollout.Counted) -> None:
    assert {kind for kind, _ in counted.first["watcher"]} <= {READ}


def test_a_resync_of_what_did_not_change_writes_nothing(counted: rollout.Counted) -> None:
    assert (counted.resync_writes, counted.resync_events) == (0, 0)


def test_a_new_watcher_lists_everything_and_appends_nothing(counted: rollout.Counted) -> None:
    assert (counted.restart_writes, counted.restart_events) == (0, 0)


# --- a poll


def test_a_poll_of_unchanged_deployments_appends_nothing_and_asks_redis_little(redis_server: RedisServer) -> None:
    with poll.polling(DEPLOYMENTS) as engine:
        assert poll.polled(engine).events == 2 * DEPLOYMENTS  # registered and requested
        poll.live(engine)
        assert poll.polled(engine).events == 0  # the poll catches up with the appended events
        commands = commands_of(engine.settings.redis_url.get_secret_value())

        unchanged = poll.polled(engine)

        issued = commands_of(engine.settings.redis_url.get_secret_value()) - commands
        assert (unchanged.listed, unchanged.events) == (DEPLOYMENTS, 0)
        assert issued < DEPLOYMENTS / 3, "the cost in Redis must not grow with deployments that did not change"

        engine.poller.memory = PollMemory()
        forgotten = poll.polled(engine)
        assert (forgotten.listed, forgotten.events) == (DEPLOYMENTS, 0)


def commands_of(url: str) -> int:
    """Return the number of commands that a Redis has processed."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("stats")["total_commands_processed"])


# --- what `python -m bench` prints


@pytest.fixture
def _logging_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the command from changing the logging of the whole test run."""
    monkeypatch.setattr("engine.telemetry.configure_logging", lambda *_: None)


@pytest.mark.usefixtures("_logging_as_it_is")
def test_a_missed_budget_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(value: float) -> Report:
        report = Report(name="log", title="")
        report.add("things", value, budget=1)
        return report

    monkeypatch.setitem(BENCHES, "log", lambda options: measured(1))
    assert main(["log", "--json"]) == 0
    monkeypatch.setitem(BENCHES, "log", lambda options: measured(2))
    assert main(["log"]) == 1
    assert "missed" in capsys.readouterr().out


@pytest.mark.usefixtures("_logging_as_it_is")
def test_a_measurement_without_its_program_is_named_and_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "/nowhere")

    assert main(["convergence", "--cluster", "envtest"]) == 0
    assert "skipped: real API server: no etcd, kube-apiserver" in capsys.readouterr().out
    assert Options().chosen() == "embedded"
