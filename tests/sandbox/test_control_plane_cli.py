"""The real `langgraph` command, unchanged, against the control plane, with a data plane that only reports."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sandbox.control_plane.server import ControlPlane, seed
from tests.support.langgraph_cli import IMAGE, LANGGRAPH, URL, deploy, deployment, langgraph, resources, result

WORKSPACE = str(uuid.uuid4())
OTHER_IMAGE = "sandbox.local/hello@sha256:" + "1" * 64

pytestmark = pytest.mark.skipif(
    not LANGGRAPH.exists(), reason=f"langgraph-cli is not installed beside {sys.executable}"
)


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A control plane as the stack starts it: one listener with one namespace, which needs no flag."""
    with ControlPlane({"key": WORKSPACE}, infer_listener=True) as plane:
        seed(plane.store, WORKSPACE, "laptop", ["agents"])
        yield plane


@pytest.fixture
def strict_plane() -> Iterator[ControlPlane]:
    """A control plane that requires a listener id, as the hosted one does."""
    with ControlPlane({"key": WORKSPACE}) as plane:
        seed(plane.store, WORKSPACE, "laptop", ["agents"])
        yield plane


@contextmanager
def data_plane(plane: ControlPlane, end: str, **why: str) -> Iterator[None]:
    """Reports for every queued revision the statuses up to `end`, and DELETED for every deletion."""
    stopped = threading.Event()

    def reconcile(http: httpx.Client) -> None:
        for listed in http.get("/v2/deployments", params={"remote_reconciled": True}).json()["resources"]:
            path = f"/v2/deployments/{listed['id']}"
            if listed["status"] == "AWAITING_DELETE":
                http.patch(f"{path}/status", json={"status": "DELETED"}).raise_for_status()
                continue
            for revision in http.get(f"{path}/revisions", params={"status": "QUEUED"}).json()["resources"]:
                for status in ("AWAITING_DEPLOY", "DEPLOYING"):
                    http.patch(f"{path}/revisions/{revision['id']}/status", json={"status": status}).raise_for_status()
                if end == "DEPLOYED":
                    http.patch(f"{path}/status", json={"status": "READY"}).raise_for_status()
                    http.patch(path, json={"source_config": {"custom_url": URL}}).raise_for_status()
                last = {"status": end, **why}
                http.patch(f"{path}/revisions/{revision['id']}/status", json=last).raise_for_status()

    def run() -> None:
        with httpx.Client(base_url=plane.url, headers=plane.headers()) as http:
            while not stopped.wait(0.1):
                reconcile(http)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(30)


def test_deploy_without_a_listener_flag_waits_and_succeeds(plane: ControlPlane, project: Path) -> None:
    with data_plane(plane, "DEPLOYED"):
        outcome = result(deploy(plane, project))
    made = deployment(plane, "hello")
    assert (outcome["status"], outcome["deployment_id"], outcome["url"]) == ("succeeded", made["id"], URL)
    assert outcome["status_url"] == f"{plane.url}/o/{WORKSPACE}/host/deployments/{made['id']}"
    assert "DEPLOYED" in httpx.get(outcome["status_url"]).raise_for_status().text
    assert made["source_config"]["listener_config"] == {"k8s_namespace": "agents"}
    assert made["secrets"] == [{"name": "GREETING", "value": "hello"}]
    assert made["active_revision_id"] == made["latest_revision_id"]
    assert made["status"] == "READY"


def test_a_second_deploy_updates_image_and_secrets(plane: ControlPlane, project: Path) -> None:
    with data_plane(plane, "DEPLOYED"):
        deploy(plane, project)
        before = deployment(plane, "hello")
        config = project / "langgraph.json"
        config.write_text(config.read_text().replace('"hello"', '"good evening"'))
        deploy(plane, project, image=OTHER_IMAGE)
    after = deployment(plane, "hello")
    assert after["id"] == before["id"]
    assert after["active_revision_id"] == after["latest_revision_id"] != before["latest_revision_id"]
    assert after["source_revision_config"]["image_uri"] == OTHER_IMAGE
    assert after["secrets"] == [{"name": "GREETING", "value": "good evening"}]


def test_a_failed_revision_fails_the_command_and_its_reason_is_in_the_logs(plane: ControlPlane, project: Path) -> None:
    with data_plane(plane, "DEPLOYED"):
        deploy(plane, project)
    with data_plane(plane, "DEPLOY_FAILED", reason="ImagePullBackOff", message="pod hello-1"):
        assert result(deploy(plane, project, code=1))["status"] == "failed"
    made = deployment(plane, "hello")
    newest, oldest = resources(plane, f"/v2/deployments/{made['id']}/revisions")
    assert (made["latest_revision_id"], made["active_revision_id"]) == (newest["id"], oldest["id"])

    table = langgraph(plane, project, "revisions", "list", made["id"])
    assert [line.split()[:2] for line in table.splitlines()[2:]] == [
        [newest["id"], "DEPLOY_FAILED"],
        [oldest["id"], "DEPLOYED"],
    ]
    line = f"[ERROR] revision {newest['id']} DEPLOY_FAILED: ImagePullBackOff: pod hello-1"
    assert line in langgraph(plane, project, "logs", "--deployment-id", made["id"])
    assert line in langgraph(plane, project, "logs", "--name", "hello", "--level", "ERROR", "--query", "pullback")
    of_oldest = langgraph(plane, project, "logs", "--name", "hello", "--revision-id", oldest["id"])
    assert "DEPLOYED" in of_oldest
    assert line not in of_oldest
    assert "No log entries" in langgraph(plane, project, "logs", "--name", "hello", "--type", "build")


def test_list_and_delete(plane: ControlPlane, project: Path) -> None:
    with data_plane(plane, "DEPLOYED"):
        deploy(plane, project)
        made = deployment(plane, "hello")
        rows = langgraph(plane, project, "list").splitlines()[2:]
        assert [row.split() for row in rows] == [[made["id"], "hello", URL]]
        assert json.loads(langgraph(plane, project, "list", "--name-contains", "ell", "--json"))[0]["id"] == made["id"]
        assert "No deployments" in langgraph(plane, project, "list", "--name-contains", "x")
        (listener,) = resources(plane, "/v2/listeners")
        rows = langgraph(plane, project, "listeners", "list").splitlines()[2:]
        assert [row.split() for row in rows] == [[listener["id"], "laptop", "agents"]]

        assert f"Deleted deployment {made['id']}" in langgraph(plane, project, "delete", made["id"], "--force")
        deadline = time.monotonic() + 30
        while resources(plane) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert resources(plane) == []
    assert "not found" in langgraph(plane, project, "delete", made["id"], "--force", code=1)


def test_where_a_listener_is_required_the_command_asks_for_the_flag_and_takes_it(
    strict_plane: ControlPlane, project: Path
) -> None:
    (listener,) = resources(strict_plane, "/v2/listeners")
    arguments = ("--name", "hello", "--image-uri", IMAGE, "--no-input")
    refused = langgraph(strict_plane, project, *arguments, code=2)
    assert "--listener-id" in refused
    assert listener["id"] in refused.replace("\n", " ")
    assert resources(strict_plane) == []
    with data_plane(strict_plane, "DEPLOYED"):
        assert result(deploy(strict_plane, project, "--listener-id", listener["id"]))["status"] == "succeeded"


def test_a_wrong_key_is_reported(project: Path) -> None:
    with ControlPlane({"another": WORKSPACE}) as other:
        assert "401" in langgraph(other, project, "list", code=1)
