"""The listener alone, on both API servers, with the sandbox control plane and stand-ins for other operators."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import queries
from engine.control_plane.client import HttpControlPlane
from engine.errors import ControlPlaneThrottled, ControlPlaneUnavailable, ReportRefused
from engine.kubernetes.cluster import KubernetesCluster
from engine.listener.state import Phase
from engine.names import deployment_stream
from engine.ports import ControlPlane as ControlPlaneAdapter
from engine.ports import ObjectKey
from engine.replay import replay
from engine.runtime.advance import advance
from engine.runtime.backoff import Backoff
from sandbox.control_plane.server import ControlPlane, seed
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.faulty_server import FaultyServer, Reply, Request, json_reply
from tests.support.listener_stack import IMAGE, KEY, SECRET, WORKSPACE, Listener, at_work
from tests.support.operator_stack import install_crd

COUNTS = {"deploymentStatus": {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1}}


def conditions(generation: int, available: bool) -> dict[str, Any]:
    common = {"reason": "Said", "message": "as it is", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {
        "observedGeneration": generation,
        "conditions": [{"type": "Available", "status": str(available), **common}],
        **COUNTS,
    }


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


@pytest.fixture
def listener(plane: ControlPlane, api_server: ApiServer, namespace: str) -> Iterator[Listener]:
    with at_work(plane, api_server, namespace) as listener:
        yield listener


def test_a_deployment_becomes_an_lgp_and_a_secret(listener: Listener) -> None:
    deployment_id = listener.deploy()
    eventually(lambda: listener.lgp(deployment_id), "the LGP is there")

    lgp, (secret,) = listener.lgp(deployment_id), listener.secrets()
    server = lgp["spec"]["serverSpec"]
    assert server["image"] == f"{IMAGE}:v1"
    assert server["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    references = {entry["name"]: entry.get("valueFrom", {}).get("secretKeyRef") for entry in server["env"]}
    assert references["OPENAI_API_KEY"] == {"name": secret["metadata"]["name"], "key": "OPENAI_API_KEY"}
    assert secret["immutable"] is True
    assert SECRET not in str(lgp)
    eventually(lambda: "LgpApplied" in listener.types(deployment_id), "LgpApplied is in the log")
    logged = "".join(str(record.data) for record in listener.events.read_all(limit=10_000))
    assert SECRET not in logged
    assert KEY not in logged


@pytest.mark.parametrize("reports", ["counts", "conditions"])
def test_the_status_of_another_operator_leads_to_deployed(listener: Listener, reports: str) -> None:
    deployment_id = listener.deploy()
    first = listener.shown(deployment_id)["latest_revision_id"]
    eventually(lambda: listener.lgp(deployment_id), "the LGP is there")

    if reports == "conditions":
        listener.operator_says(deployment_id, conditions(1, available=False))
        eventually(lambda: "RolloutObserved" in listener.types(deployment_id), "RolloutObserved is in the log")
        assert listener.phase(deployment_id) is not Phase.DEPLOYED
    listener.operator_says(deployment_id, COUNTS if reports == "counts" else conditions(1, available=True))
    eventually(lambda: listener.revision_status(deployment_id, first) == "DEPLOYED", "the control plane says DEPLOYED")

    eventually(lambda: listener.shown(deployment_id)["status"] == "READY", "READY")
    shown = listener.shown(deployment_id)
    assert shown["active_revision_id"] == first
    url = f"https://agents.example.com/lgp/{listener.key(deployment_id).name}"
    assert shown["source_config"]["custom_url"] == url
    assert shown["latest_revision_id"] == first  # the status report created no revision

    time.sleep(1.1)  # managedFields count whole seconds
    second = listener.update(deployment_id, "v2")
    eventually(lambda: listener.image(deployment_id) == f"{IMAGE}:v2", "the new image is asked for")
    eventually(lambda: listener.phase(deployment_id) is Phase.DEPLOYING, "the revision rolls out")
    progressing = {"deploymentStatus": {**COUNTS["deploymentStatus"], "replicas": 2}}
    listener.operator_says(deployment_id, progressing if reports == "counts" else conditions(2, available=False))
    eventually(lambda: listener.types(deployment_id).count("RolloutObserved") >= 2, "RolloutObserved is in the log")
    assert listener.phase(deployment_id) is Phase.DEPLOYING
    listener.operator_says(deployment_id, COUNTS if reports == "counts" else conditions(2, available=True))
    eventually(lambda: listener.revision_status(deployment_id, second) == "DEPLOYED", "v2 is deployed")
    assert replay(listener.events.read_all(limit=10_000)).divergences == []


def test_an_own_custom_url_is_left_alone(listener: Listener) -> None:
    deployment_id = listener.deploy()
    own = {"source_config": {"custom_url": "https://my.example"}}
    assert listener.http.patch(f"/v2/deployments/{deployment_id}", json=own).status_code == 200
    eventually(lambda: listener.lgp(deployment_id), "the LGP is there")
    listener.operator_says(deployment_id, conditions(1, available=True))

    eventually(lambda: "EndpointNotPublished" in listener.types(deployment_id), "the failure is reported")
    eventually(lambda: listener.phase(deployment_id) is Phase.DEPLOYED, "and goes on")
    assert listener.shown(deployment_id)["source_config"]["custom_url"] == "https://my.example"


def test_manual_changes_and_deletions_are_repaired(listener: Listener) -> None:
    deployment_id = listener.deploy()
    eventually(lambda: listener.lgp(deployment_id), "the LGP is there")
    listener.operator_says(deployment_id, conditions(1, available=True))
    eventually(lambda: listener.phase(deployment_id) is Phase.DEPLOYED, "the deployment is deployed")
    cluster, key, (secret,) = listener.engine.ports.cluster, listener.key(deployment_id), listener.secrets()

    cluster.patch(key, {"spec": {"serverSpec": {"image": "somebody/else"}}})
    eventually(lambda: listener.image(deployment_id) == f"{IMAGE}:v1", "the image is back")
    name = secret["metadata"]["name"]
    cluster.delete(ObjectKey(api_version="v1", kind="Secret", namespace=listener.namespace, name=name))
    eventually(lambda: [s["metadata"]["name"] for s in listener.secrets()] == [name], "the Secret is back")
    uid = listener.lgp(deployment_id)["metadata"]["uid"]
    cluster.delete(key)
    eventually(lambda: listener.lgp(deployment_id).get("metadata", {}).get("uid") not in (None, uid), "the LGP is back")
    assert listener.phase(deployment_id) is Phase.DEPLOYED


def test_deletion_leaves_nothing_and_the_row_goes(listener: Listener) -> None:
    deployment_id = listener.deploy()
    eventually(lambda: listener.lgp(deployment_id), "the LGP is there")

    assert listener.http.delete(f"/v2/deployments/{deployment_id}").status_code == 204

    eventually(lambda: listener.http.get(f"/v2/deployments/{deployment_id}").status_code == 404, "the row is gone")
    assert listener.lgp(deployment_id) == {}
    assert listener.secrets() == []


def test_a_wrong_key_is_one_event_that_names_the_setting(
    plane: ControlPlane, api_server: ApiServer, namespace: str
) -> None:
    plane.admit("lsv2_another", "99999999-2222-4333-8444-555555555555")
    with at_work(plane, api_server, namespace, langsmith_api_key="lsv2_pt_wrong_0123456789") as listener:
        eventually(
            lambda: any(event.type == "PollFailed" for event in listener.engine_events()), "the failure is reported"
        )
        (failed,) = [event for event in listener.engine_events() if event.type == "PollFailed"]

    assert "401" in failed.reason
    assert "AGENTPLANE_LANGSMITH_API_KEY" in failed.reason
    assert "lsv2_pt_wrong" not in failed.reason


class Throttling:
    """An adapter whose control plane answers 429 to lists of deployments for `seconds`."""

    def __init__(self, adapter: ControlPlaneAdapter, seconds: float) -> None:
        self._adapter = adapter
        self._until = time.monotonic() + seconds
        self.asked = 0

    def deployments(self) -> Iterator[Any]:
        if time.monotonic() < self._until:
            self.asked += 1
            raise ControlPlaneThrottled("GET /v2/deployments: 429 Too Many Requests", 2.0)
        return self._adapter.deployments()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


def test_a_throttling_control_plane_gets_no_request_until_retry_after(listener: Listener) -> None:
    throttling: Any = Throttling(listener.engine.poller.control_plane, 1.5)
    listener.engine.poller.control_plane = throttling
    deployment_id = listener.deploy()

    eventually(lambda: listener.lgp(deployment_id), "the listener applies the LGP after the throttling")

    edges = [event.type for event in listener.engine_events() if event.type.startswith("Poll")]
    assert edges[:2] == ["PollFailed", "PollRecovered"]
    assert len(edges) == 2
    assert throttling.asked == 1  # five polls a second would have asked more often


def test_a_control_plane_that_restarts_is_waited_for(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    """The control plane stops during a rollout, and returns at the same URL with the same data."""
    install_crd(api_server)
    database = tmp_path / "control-plane.sqlite"
    front = Front()
    with contextlib.ExitStack() as stack:
        stack.callback(front.close)
        with ControlPlane({KEY: WORKSPACE}, db=database) as first:
            front.target = first.url
            listener_id = seed(first.store, WORKSPACE, namespace, [namespace])["id"]
            first.url = front.url
            listener = stack.enter_context(Listener(first, listener_id, api_server, namespace))
            deployment_id = listener.deploy()
            revision_id = listener.shown(deployment_id)["latest_revision_id"]
            eventually(lambda: "LgpApplied" in listener.types(deployment_id), "the LGP is there")
            front.target = ""
        listener.operator_says(deployment_id, conditions(1, available=True))
        eventually(
            lambda: listener.phase(deployment_id) is Phase.DEPLOYED, "the rollout goes on without the control plane"
        )
        eventually(lambda: any(e.type == "PollFailed" for e in listener.engine_events()), "the outage is noticed")
        with ControlPlane({KEY: WORKSPACE}, db=database) as second:
            front.target = second.url
            eventually(
                lambda: listener.revision_status(deployment_id, revision_id) == "DEPLOYED",
                "the control plane shows DEPLOYED",
                90,
            )
            eventually(lambda: any(e.type == "PollRecovered" for e in listener.engine_events()), "and polled again", 90)


class Front:
    """A server with a constant port in front of a control plane that stops and starts."""

    def __init__(self) -> None:
        self.target = ""
        self._server = FaultyServer(self._answer)
        self.url = self._server.url

    def close(self) -> None:
        self._server.close()

    def _answer(self, request: Request) -> Reply:
        if not self.target:
            return Reply(reset=True)
        headers = {k: v for k, v in request.headers.items() if k in ("x-api-key", "x-tenant-id", "content-type")}
        try:
            answer = httpx.request(
                request.method,
                f"{self.target}{request.path}",
                params=request.query,
                headers=headers,
                content=request.body,
                timeout=10,
            )
        except httpx.HTTPError:
            return Reply(reset=True)
        body = {"Content-Type": answer.headers.get("Content-Type", "")}
        return Reply(status=answer.status_code, body=answer.content, headers=body)


def test_a_worker_whose_lock_expired_writes_no_older_lgp(
    plane: ControlPlane, api_server: ApiServer, namespace: str
) -> None:
    """Between the first worker's read and write, its lock expires and another worker applies v2."""
    with at_work(plane, api_server, namespace) as listener:
        deployment_id = listener.deploy()
        eventually(lambda: "LgpApplied" in listener.types(deployment_id), "v1 is there")
    # From here on, only this test advances the stream.
    listener = Listener(plane, listener.settings.stream_name, api_server, namespace)
    _ = listener.engine.poll()
    stream = deployment_stream(deployment_id)
    listener.engine.advance(stream)

    second = listener.update(deployment_id, "v2")
    listener.engine.poll()
    sleeper = Sleeper(listener, stream)
    listener.update(deployment_id, "v3")
    outcome = sleeper.advance()

    assert sleeper.slept
    assert outcome == "lost"
    assert listener.image(deployment_id) == f"{IMAGE}:v3"
    assert listener.state(deployment_id).revision.id != second
    assert stream in listener.events.dirty()  # another worker will check the stream once more
    listener.engine.advance(stream)
    assert listener.image(deployment_id) == f"{IMAGE}:v3"
    assert queries.find(listener.events, "hello").phase == "DEPLOYING"
    listener.engine.close()
    listener.http.close()


class Sleeper:
    """A worker whose first write of an LGP comes after its lock expired and after another worker's write."""

    def __init__(self, listener: Listener, stream: str) -> None:
        self._listener = listener
        self._stream = stream
        self.slept = False
        cluster = KubernetesCluster.load(listener.settings.kubeconfig)
        call = cluster._http.call

        def late(method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            if method == "PATCH" and "/lgps/" in path and not self.slept:
                self.slept = True
                self._listener.events._locks.clear()  # the lock expires
                self._listener.engine.poll()
                assert self._listener.engine.advance(self._stream).outcome in ("acknowledged", "waiting")
            return call(method, path, *args, **kwargs)

        cluster._http.call = late  # type: ignore[method-assign]
        self._cluster = cluster

    def advance(self) -> str:
        engine = self._listener.engine
        ports = replace(engine.ports, cluster=self._cluster)
        machine = engine.machine_of(self._stream)
        done = advance(self._stream, machine, engine.events, ports, lock_ttl=30, backoff=Backoff())
        self._cluster.close()
        return done.outcome


@pytest.mark.parametrize(("status", "refused"), [(400, True), (403, True), (404, True), (422, True), (503, False)])
def test_a_url_that_the_control_plane_refuses_is_a_refusal(status: int, refused: bool) -> None:
    server = FaultyServer(lambda request: json_reply({"detail": "no"}, status))
    plane = HttpControlPlane(server.url, api_key=KEY, workspace_id=WORKSPACE)
    with pytest.raises(ReportRefused if refused else ControlPlaneUnavailable, match="no"):
        plane.publish_endpoint("d1", "https://agents.example.com/lgp/hello")
    plane.close()
    server.close()

    (request,) = server.requests
    assert (request.method, request.path) == ("PATCH", "/v2/deployments/d1")
    assert request.json == {"source_config": {"custom_url": "https://agents.example.com/lgp/hello"}}
