"""The watcher through failures: a restarting API server, a restarted watcher, a crash log with secrets in it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.kubernetes.cluster import KubernetesCluster
from engine.listener.config import ListenerConfig
from engine.listener.events import Paused, Resumed
from engine.listener.machine import ListenerMachine
from engine.log.redis import RedisLog
from engine.operator.state import Life
from engine.runtime.observation import Affected, Observation, Watch
from engine.runtime.observation_loop import Appended
from sandbox.redis import RedisServer
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.logs import LastSecond
from tests.support.operator_stack import Operator, at_work, install_crd, lgp_manifest
from workers.watcher import STALE, Watcher, check

NAME = "hello-0123456789abcdef0123456789abcdef"
LGP = "apps.langchain.ai/v1alpha1"


@pytest.fixture
def operator(api_server: ApiServer, namespace: str) -> Iterator[Operator]:
    with at_work(api_server, namespace) as operator:
        yield operator


def deployed(operator: Operator) -> None:
    operator.put(lgp_manifest(operator.namespace, NAME))
    eventually(lambda: operator.available(NAME), f"{NAME} is available")
    operator.quiet(NAME)


def test_an_api_server_that_restarts_in_the_middle_of_everything_is_survived(
    operator: Operator, api_server: ApiServer
) -> None:
    deployed(operator)
    service = operator.key("Service", NAME, "v1")

    operator.watching.patch(service, {"spec": {"selector": {"app": "something-else"}}})
    api_server.restart()
    operator.put(lgp_manifest(operator.namespace, NAME, "r2"))

    eventually(lambda: operator.available(NAME, 2), "r2 is available after the restart")
    eventually(
        lambda: (operator.cluster.get(service) or {})["spec"]["selector"]["app"] == NAME,
        "the Service's selector is repaired",
    )
    assert operator.drifts(NAME) == [("Service", "edited")]


def test_what_changed_while_no_watcher_ran_is_seen_by_the_next(api_server: ApiServer, namespace: str) -> None:
    other = "world-0123456789abcdef0123456789abcdef"
    with at_work(api_server, namespace) as first:
        deployed(first)
        first.put(lgp_manifest(namespace, other))
        eventually(lambda: first.available(other), "the other is available")

    with at_work(api_server, namespace, events=first.events) as second:
        version = second.events.version(second.stream(other))
        second.quiet(other)
        assert second.events.version(second.stream(other)) == version

    first.cluster.delete(first.key("LGP", NAME, LGP))
    first.cluster.delete(first.key("Deployment", other))

    with at_work(api_server, namespace, events=first.events) as third:
        eventually(lambda: third.state(NAME).life is Life.PRUNED, "the absence of one is seen")
        eventually(lambda: third.uid(third.key("Deployment", other)), "the Deployment of the other is back")
        assert third.drifts(other) == [("Deployment", "deleted")]


def test_a_crash_log_reaches_the_condition_without_the_secrets_of_its_pod(
    operator: Operator, api_server: ApiServer
) -> None:
    namespace = operator.namespace
    operator.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "own", "namespace": namespace},
            "data": {"k": base64.b64encode(b"s3cret-password").decode()},
        }
    )
    env = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "own", "key": "k"}}}]
    env += [{"name": "TOKEN", "value": "hunter2-hunter2"}]
    operator.put(lgp_manifest(namespace, NAME, serverSpec={"env": env}))
    eventually(lambda: operator.available(NAME), "the Agent Server is available")
    (pod,) = [p for p in operator.cluster.list("v1", "Pod", namespace) if is_server(p)]
    crash = {
        "exitCode": 3,
        "reason": "Error",
        "message": "RuntimeError: s3cret-password and hunter2-hunter2 are wrong",
    }
    container = {"name": "api-server", "image": "x", "imageID": "", "ready": False, "restartCount": 1}
    container |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": crash}}
    with api_server.http() as http:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/status"
        merge = {"Content-Type": "application/merge-patch+json"}
        body = {"status": {"containerStatuses": [container]}}
        http.patch(path, json=body, headers=merge).raise_for_status()

    eventually(
        lambda: operator.condition(NAME, "Degraded").get("reason") == "CrashLoopBackOff",
        "the condition reports the crash",
    )

    assert "RuntimeError: *** and *** are wrong" in operator.condition(NAME, "Degraded")["message"]
    logged = "".join(str(record.data) for record in operator.events.read_all())
    assert "s3cret" not in logged
    assert "hunter2" not in logged


def is_server(pod: dict) -> bool:  # type: ignore[type-arg]
    name = pod["metadata"]["name"]
    return name.startswith(NAME) and not any(name.startswith(f"{NAME}-{part}") for part in ("queue", "redis", "db"))


# --- the heartbeat


def test_the_heartbeat_file_is_written_and_grows_old(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    assert check(path, time.time()) == f"{path} does not exist: the watcher has not started"
    with at_work(api_server, namespace) as operator:
        operator.watcher._heartbeat = path
        eventually(path.exists, "a sign of life")

    assert check(path, time.time()) is None
    assert f"(at most {STALE:.0f})" in (check(path, time.time() + 2 * STALE) or "")


def test_the_check_of_a_watcher_that_never_ran_fails(tmp_path: Path) -> None:
    environment = {
        "AGENTPLANE_LISTENER_ENABLED": "false",
        "AGENTPLANE_DIGEST_KEY": "0123456789abcdef0123456789abcdef",
        "AGENTPLANE_WATCH_NAMESPACES": "team",
        "AGENTPLANE_PREFIX": "never-started",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "workers.watcher", "--check"]
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, "the watcher has not started" in answer.stderr) == (1, True), answer.stderr


def test_a_redis_that_crashes_and_comes_back_is_survived(api_server: ApiServer, namespace: str) -> None:
    with (
        RedisServer() as redis,
        at_work(api_server, namespace, events=RedisLog.from_url(redis.url, "test")) as operator,
    ):
        deployed(operator)
        service = operator.key("Service", NAME, "v1")

        redis.kill()
        operator.watching.patch(service, {"spec": {"selector": {"app": "something-else"}}})
        time.sleep(1)  # the watcher meets the missing Redis
        redis.start()

        eventually(
            lambda: (operator.cluster.get(service) or {})["spec"]["selector"]["app"] == NAME,
            "the Service's selector is repaired",
        )
        operator.put(lgp_manifest(namespace, NAME, "r2"))
        eventually(lambda: operator.available(NAME, 2), "r2 is available")


class Forgotten:
    """An observer of a paused deployment; Redis loses all data after the observer's first comparison."""

    machine = ListenerMachine(
        ListenerConfig(listener_id="l", workspace_id="w", namespaces=("agents",), smith_url="http://smith")
    )

    def __init__(self, crash: LastSecond) -> None:
        self._crash: LastSecond | None = crash

    def watches(self) -> tuple[()]:
        return ()

    def external_watches(self) -> tuple[()]:
        return ()

    def on_change(self, watch: Watch, namespace: str, manifest: Any, *, exists: bool) -> Affected:
        return ()

    def on_synced(self, watch: Watch, namespace: str, streams: Callable[[str], list[str]]) -> Affected:
        return ()

    def extra_watches(self, state: Any) -> Iterator[Any]:
        return iter(())

    def observe(self, stream: str, state: Any) -> Observation:
        if self._crash is not None:
            self._crash.remember()
            self._crash = None
        return Observation(certain=() if state.paused else (Paused(by="the cluster"),))

    def confirm(self, stream: str, state: Any, unconfirmed: Any) -> None: ...


class Nobody:
    def dispatch(self, stream: str) -> None: ...


def test_events_that_redis_lost_are_appended_again_without_a_new_change() -> None:
    """Redis restarts so quickly that no request fails, and no event wakes the watcher."""
    with RedisServer() as server:
        events, crash = RedisLog.from_url(server.url, "test"), LastSecond(server)
        nothing: Any = None
        watcher = Watcher([Forgotten(crash)], [], events, nothing, Nobody())
        at_work = threading.Thread(target=watcher.run, daemon=True)
        events.append("deployment/a", 0, [Resumed(by="somebody")], actor="test")
        watcher._queue.put(Appended("deployment/a"))
        at_work.start()
        eventually(lambda: events.version("deployment/a") == 2, "the observation is appended")
        time.sleep(1.5)  # the watcher has compared the stream after its own event

        crash.lose_what_came_since()

        eventually(lambda: events.version("deployment/a") == 2, "the observation is appended again")
        watcher.stop()
        at_work.join(10)
        events.close()


def test_the_process_watches_and_ends_on_a_signal(
    api_server: ApiServer, namespace: str, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    install_crd(api_server)
    environment = {
        **os.environ,
        "AGENTPLANE_LISTENER_ENABLED": "false",
        "AGENTPLANE_DIGEST_KEY": "0123456789abcdef0123456789abcdef",
        "AGENTPLANE_WATCH_NAMESPACES": namespace,
        "AGENTPLANE_PREFIX": prefix,
        "AGENTPLANE_REDIS_URL": redis_url,
        "AGENTPLANE_KUBECONFIG": str(api_server.kubeconfig),
        "TMPDIR": str(tmp_path),
    }
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "workers.watcher"]
    cluster = KubernetesCluster.load(api_server.kubeconfig)
    events = RedisLog.from_url(redis_url, prefix)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, cwd=root, stderr=log) as process,
    ):
        try:
            cluster.apply(lgp_manifest(namespace, NAME), manager="somebody")
            eventually(lambda: events.version(f"lgp/{namespace}/{NAME}") == 1, "the LGP is in the log")
            eventually(
                lambda: subprocess.run([*command, "--check"], env=environment, cwd=root).returncode == 0, "alive"
            )
        finally:
            process.terminate()
        assert process.wait(30) == 0, (tmp_path / "log").read_text()[-3000:]
    cluster.close()
    assert "hunter2" not in (tmp_path / "log").read_text()
    assert f"lgp/{namespace}/{NAME}" in events.dirty()
