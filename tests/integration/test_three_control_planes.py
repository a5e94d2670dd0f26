"""The control planes that a data plane may have: hosted in four regions, self-hosted below /api-host, the sandbox's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from engine import bootstrap
from engine.control_plane.client import HttpControlPlane
from engine.errors import ControlPlaneDenied
from engine.kubernetes.cluster import KubernetesCluster
from engine.log.memory import MemoryLog
from engine.names import deployment_stream
from engine.settings import Settings
from sandbox.control_plane.server import ControlPlane, seed
from tests.chart.rendering import NEEDED, at, objects
from tests.chart.rendering import settings_of as settings_from
from tests.support.langgraph_cli import IMAGE, URL, deploy, deployment, langgraph, result

KEY, WORKSPACE = "key", str(uuid4())

HOSTED = {
    "gcp-us": ("https://api.host.langchain.com", "https://api.smith.langchain.com"),
    "gcp-eu": ("https://eu.api.host.langchain.com", "https://eu.api.smith.langchain.com"),
    "gcp-apac": ("https://apac.api.host.langchain.com", "https://apac.api.smith.langchain.com"),
    "aws-us": ("https://aws.api.host.langchain.com", "https://aws.api.smith.langchain.com"),
}
"""As the hybrid model's documentation names them; repeated here, so that a slip in the code is seen."""

WHERE = {"the sandbox's": "", "self-hosted": "/api-host"}


@pytest.mark.parametrize("region", HOSTED)
def test_a_hosted_one_is_named_by_its_region(region: str) -> None:
    settings = settings_from(objects(NEEDED, at("config.region", region)))

    assert (settings.host_backend_url, settings.smith_backend_url) == HOSTED[region]
    asked = Asked()
    with closing(HttpControlPlane.from_settings(settings)) as control_plane:
        control_plane._client = asked.client
        with pytest.raises(ControlPlaneDenied, match="401"):
            next(iter(control_plane.deployments()))
    assert asked.urls == [f"{HOSTED[region][0]}/v2/deployments?limit=100&offset=0"]


class Asked:
    """Records the requests of a client; no request leaves this process."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.client = (os.getpid(), httpx.Client(transport=httpx.MockTransport(self._answer)))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(str(request.url))
        return httpx.Response(401, json={"detail": "no"})


@pytest.fixture(params=WHERE)
def plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}, infer_listener=True, path=WHERE[request.param]) as plane:
        yield plane


def settings_of(plane: ControlPlane, listener: str) -> Settings:
    return Settings.load(
        langsmith_api_key=KEY,
        workspace_id=WORKSPACE,
        listener_id=listener,
        watch_namespaces="agents",
        host_backend_url=f"{plane.url}/",  # with the trailing slash of a copied URL
        smith_backend_url=f"{plane.url}/langsmith",
        ingress_hostname="agents.example.com",
        operator_enabled=False,
    )


@contextmanager
def data_plane(settings: Settings) -> Iterator[None]:
    """Report every revision as deployed through the adapter that the listener uses, until the block ends."""
    done, reported = threading.Event(), set()

    def reconcile(control_plane: HttpControlPlane) -> None:
        for found in (found for page in control_plane.deployments() for found in page):
            identity, revision = found["id"], found["latest_revision_id"]
            if found["status"] == "AWAITING_DELETE":
                control_plane.report_deployment(identity, "DELETED", reason=None)
            elif revision and revision not in reported:
                reported.add(revision)
                for status in ("AWAITING_DEPLOY", "DEPLOYING"):
                    control_plane.report_revision(identity, revision, status, reason=None, message=None)
                control_plane.report_deployment(identity, "READY", reason=None)
                control_plane.publish_endpoint(identity, URL)
                control_plane.report_revision(identity, revision, "DEPLOYED", reason=None, message=None)

    def run() -> None:
        with closing(HttpControlPlane.from_settings(settings)) as control_plane:
            while not done.wait(0.1):
                reconcile(control_plane)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)


def test_langgraph_deploy_and_delete_work_with_it(plane: ControlPlane, project: Path) -> None:
    listener = seed(plane.store, WORKSPACE, "laptop", ["agents"])["id"]
    with data_plane(settings_of(plane, listener)):
        outcome = result(deploy(plane, project))
        made = deployment(plane, "hello")
        assert (outcome["status"], outcome["deployment_id"], outcome["url"]) == ("succeeded", made["id"], URL)
        assert made["source_revision_config"]["image_uri"] == IMAGE
        assert f"Deleted deployment {made['id']}" in langgraph(plane, project, "delete", made["id"], "--force")


def test_the_listener_polls_it_and_reports_its_version(plane: ControlPlane) -> None:
    listener = seed(plane.store, WORKSPACE, "laptop", ["agents"])["id"]
    form = {
        "name": "hello",
        "source": "external_docker",
        "source_config": {"listener_id": listener, "listener_config": {"k8s_namespace": "agents"}},
        "source_revision_config": {"image_uri": IMAGE},
        "secrets": [],
    }
    created = httpx.post(f"{plane.url}/v2/deployments", headers=plane.headers(), json=form).raise_for_status().json()
    events = MemoryLog()
    nowhere = KubernetesCluster.__new__(KubernetesCluster)
    settings = settings_of(plane, listener)

    with closing(HttpControlPlane.from_settings(settings)) as adapter:
        engine = bootstrap.build(settings, events=events, control_plane=adapter, cluster=nowhere)
        polled = engine.poll()

    assert (polled.outcome, polled.listed) == ("polled", 1)
    requested = [record.type for record in events.read(deployment_stream(created["id"]))]
    assert requested == ["DeploymentRegistered", "RevisionRequested"]
    known = httpx.get(f"{plane.url}/v2/listeners/{listener}", headers=plane.headers()).json()
    assert known["version"]


def test_below_a_path_nothing_answers_beside_it() -> None:
    with ControlPlane({KEY: WORKSPACE}, path="/api-host") as plane:
        root = plane.url.removesuffix("/api-host")

        assert httpx.get(f"{root}/v2/deployments", headers=plane.headers()).status_code == 404
        assert httpx.get(f"{plane.url}/ok").status_code == 200
