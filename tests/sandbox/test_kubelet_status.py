"""Images, probe timing and Pod status: the pure parts of the kubelet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.kubelet import images
from sandbox.kubelet.images import ImageError
from sandbox.kubelet.probes import Target, pace, watch
from sandbox.kubelet.runtime import command_line, last_lines, listening_port
from sandbox.kubelet.status import ContainerState, pod_status, running, terminated, waiting

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC)
APPS = Path(__file__).parents[2] / "sandbox" / "apps"
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("reference", "image_id"),
    [
        (f"sandbox.local/hello@{DIGEST}", f"sandbox.local/hello@{DIGEST}"),
        (f"sandbox.local/hello:v1@{DIGEST}", f"sandbox.local/hello@{DIGEST}"),
        ("sandbox.local/hello", None),
        ("sandbox.local/hello:v1", None),
    ],
)
def test_local_images_are_folders(reference: str, image_id: str | None) -> None:
    image = images.resolve(reference, APPS)
    assert image.folder == APPS / "hello"
    assert image.image_id == image_id or (image_id is None and image.image_id.startswith("sandbox.local/hello@sha256:"))


@pytest.mark.parametrize(
    "reference",
    ["redis:6", "pgvector/pgvector:pg15", "docker.io/library/postgres", "registry:5000/team/valkey:8", "redis"],
)
def test_infrastructure_has_stand_ins(reference: str) -> None:
    assert images.resolve(reference, APPS).folder is None


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (f"sandbox.local/missing@{DIGEST}", "ErrImagePull"),
        ("sandbox.local/a/hello", "ErrImagePull"),
        ("sandbox.local/..", "InvalidImageName"),
        ("ghcr.io/team/agent:1", "ErrImagePull"),
        ("predis:1", "ErrImagePull"),
        ("sandbox.local/hello@sha256:short", "InvalidImageName"),
        ("Not An Image", "InvalidImageName"),
        ("", "InvalidImageName"),
    ],
)
def test_everything_else_cannot_be_pulled(reference: str, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        images.resolve(reference, APPS)
    assert caught.value.reason == reason
    assert reference in str(caught.value)


def test_a_frequent_probe_fails_no_sooner_than_its_spec_allows() -> None:
    timing = pace({"periodSeconds": 15, "failureThreshold": 6, "timeoutSeconds": 5}, cap=0.5)
    assert (timing.eager, timing.period, timing.timeout) == (0.5, 15, 5)
    assert (timing.failures, timing.patience) == (6, 75)
    assert pace({"periodSeconds": 1}, cap=5).eager == 1


def verdicts(answers: list[bool], probe: dict[str, Any], enough: int) -> list[bool]:
    """Return the changes of health that a probe reports for these answers of its container; the last one repeats."""
    told: list[bool] = []

    async def scenario() -> None:
        done = asyncio.Event()
        left = iter(answers)
        now = answers[0]

        def respond(request: httpx.Request) -> httpx.Response:
            nonlocal now
            now = next(left, now)
            return httpx.Response(200 if now else 503)

        def tell(healthy: bool, message: str) -> None:
            assert healthy or "503" in message
            told.append(healthy)
            if len(told) == enough:
                done.set()

        async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
            target = Target(container={}, env={}, ports={8000: 1}, http=client)
            watching = asyncio.create_task(watch(probe, target, 0.01, tell))
            await asyncio.wait_for(done.wait(), 20)
            watching.cancel()

    asyncio.run(scenario())
    return told


def test_a_probe_reports_changes_of_health() -> None:
    action = {"httpGet": {"path": "/ok", "port": 8000}}
    flapping = [False, True, False, True, True, False, False, True]
    assert verdicts(flapping, {**action, "periodSeconds": 0.01, "failureThreshold": 2}, 3) == [True, False, True]
    assert verdicts([False], {**action, "periodSeconds": 0.1, "failureThreshold": 3}, 1) == [False]


def test_the_agent_server_listens_where_its_environment_says() -> None:
    assert listening_port({}) == 8000
    assert listening_port({"PORT": "9000"}) == 9000
    assert command_line({}, {}, 23456)[1:] == [
        "dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", "23456", "--n-jobs-per-worker", "10",
    ]  # fmt: skip
    assert command_line({"command": ["run", "$(A)"], "args": ["$(B)"]}, {"A": "1"}, 1) == ["run", "1", "$(B)"]


def test_the_last_lines_of_a_log_without_colours(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("".join(f"\x1b[31mline {number}\x1b[0m\n\n" for number in range(30)))
    assert last_lines(log, lines=2) == "line 28\nline 29"
    assert len(last_lines(log, limit=10).encode()) <= 10
    assert last_lines(tmp_path / "none") == ""


def pod(**status: Any) -> dict[str, Any]:
    return {"spec": {}, "status": status}


def container(state: dict[str, Any], **more: Any) -> ContainerState:
    return ContainerState(name=more.pop("name", "api-server"), image="i", state=state, **more)


def ended(code: int) -> dict[str, Any]:
    return terminated(code=code, started_at=NOW, finished_at=NOW, container_id="c", message="boom" if code else "")


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: one["status"] for one in status["conditions"]}


def test_a_ready_pod() -> None:
    status = pod_status(pod(), [container(running(NOW), ready=True, started=True)], NOW, NOW)
    assert status["phase"] == "Running"
    assert set(conditions(status).values()) == {"True"}
    assert status["containerStatuses"][0]["state"] == {"running": {"startedAt": "2026-01-02T03:04:05Z"}}


@pytest.mark.parametrize(
    ("containers", "phase"),
    [
        ([container(waiting("ContainerCreating"))], "Pending"),
        ([container(waiting("ImagePullBackOff"))], "Pending"),
        ([container(waiting("CrashLoopBackOff"), last=ended(1))], "Running"),
        ([container(ended(1))], "Running"),
        ([container(running(NOW)), container(waiting("ErrImagePull"), name="sidecar")], "Pending"),
        ([container(waiting("PodInitializing")), container(running(NOW), name="init", init=True)], "Pending"),
        ([container(running(NOW)), container(ended(0), name="init", init=True)], "Running"),
    ],
)
def test_phases_of_a_pod_that_restarts(containers: list[ContainerState], phase: str) -> None:
    assert pod_status(pod(), containers, NOW, NOW)["phase"] == phase


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded"), ("OnFailure", 3, "Running")],
)
def test_phases_of_a_pod_that_ends(policy: str, code: int, phase: str) -> None:
    status = pod_status({"spec": {"restartPolicy": policy}}, [container(ended(code))], NOW, NOW)
    assert status["phase"] == phase
    assert conditions(status)["Ready"] == "False"


def test_an_unready_container_is_named_and_times_are_kept() -> None:
    before = pod_status(pod(), [container(running(NOW), ready=True)], NOW, NOW)
    after = pod_status(pod(**before), [container(running(NOW), ready=False)], LATER, NOW)
    ready = next(one for one in after["conditions"] if one["type"] == "Ready")
    scheduled = next(one for one in after["conditions"] if one["type"] == "PodScheduled")
    assert (ready["reason"], ready["message"]) == (
        "ContainersNotReady",
        "containers with unready status: [api-server]",
    )
    assert ready["lastTransitionTime"] == "2026-01-02T04:04:05Z"
    assert scheduled["lastTransitionTime"] == "2026-01-02T03:04:05Z"
