"""Namespaces for releases, and the Jobs in them."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.api_servers import ApiServer


@contextlib.contextmanager
def jobs_done(server: ApiServer) -> Iterator[None]:
    """Let every Job succeed until the block ends, because no kubelet runs the hooks of a release.

    On a real API server, the pods of a Job are marked as succeeded, and the Job controller completes the Job. The
    embedded server has no Job controller, so the status of the Job is written. tests/installation runs real hooks.
    """
    done = threading.Event()
    thread = threading.Thread(target=_finish_jobs, args=(server, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)


POD_SUCCEEDED = {"phase": "Succeeded"}

JOB_COMPLETED = {
    "succeeded": 1,
    "startTime": "2026-01-01T00:00:00Z",
    "completionTime": "2026-01-01T00:00:01Z",
    "conditions": [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}
        for kind in ("SuccessCriteriaMet", "Complete")
    ],
}


def _finish_jobs(server: ApiServer, done: threading.Event) -> None:
    with server.http() as http:
        while not done.wait(0.2):
            with contextlib.suppress(httpx.TransportError, KeyError):  # the API server restarts under the test
                if server.name == "real":
                    for pod in http.get("/api/v1/pods", params={"labelSelector": "job-name"}).json()["items"]:
                        if pod["status"]["phase"] == "Pending":
                            _put_status(http, "/api/v1", "pods", pod, POD_SUCCEEDED)
                else:
                    for job in http.get("/apis/batch/v1/jobs").json()["items"]:
                        if not job.get("status", {}).get("conditions"):
                            _put_status(http, "/apis/batch/v1", "jobs", job, JOB_COMPLETED)


def _put_status(http: httpx.Client, group: str, plural: str, found: Any, status: Any) -> None:
    metadata = found["metadata"]
    path = f"{group}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}/status"
    answer = http.patch(path, json={"status": status}, headers={"Content-Type": "application/merge-patch+json"})
    assert answer.status_code != 422, f"the API server refuses this status: {answer.text}"


def make_namespace(server: ApiServer) -> str:
    name = f"test-{secrets.token_hex(4)}"
    with server.http() as http:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        http.post("/api/v1/namespaces", json=body).raise_for_status()
    return name
