"""A Pod's status, composed from the states of its containers as a kubelet does it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sandbox.ports import LOOPBACK


def timestamp(moment: datetime) -> str:
    """Return a time in RFC 3339 with seconds, as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def waiting(reason: str, message: str | None = None) -> dict[str, Any]:
    """Return the `state` of a container that has not started."""
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def running(started_at: datetime) -> dict[str, Any]:
    """Return the `state` of a running container."""
    return {"running": {"startedAt": timestamp(started_at)}}


def terminated(
    *, code: int, started_at: datetime, finished_at: datetime, container_id: str, message: str = "",
    reason: str | None = None, signal: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the `state` of a container that ended."""
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": timestamp(started_at),
            "finishedAt": timestamp(finished_at),
            "containerID": container_id,
            **({"message": message} if message else {}),
            **({"signal": signal} if signal else {}),
        }
    }


@dataclass(kw_only=True)
class ContainerState:
    """The state of one container; its supervisor changes it, `pod_status` reads it."""

    name: str
    image: str
    init: bool = False
    image_id: str = ""
    container_id: str = ""
    # ContainerState of the Kubernetes API: one of waiting, running, terminated.
    state: dict[str, Any] = field(default_factory=lambda: waiting("ContainerCreating"))
    last: dict[str, Any] = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restarts: int = 0

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def succeeded(self) -> bool:
        return "terminated" in self.state and self.state["terminated"]["exitCode"] == 0

    def report(self) -> dict[str, Any]:
        """Return the ContainerStatus of the Kubernetes API."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": self.image_id,
            "containerID": self.container_id,
            "ready": self.succeeded if self.init else self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }


def pod_status(
    pod: dict[str, Any], containers: Sequence[ContainerState], now: datetime, started_at: datetime
) -> dict[str, Any]:
    """Return the complete status of `pod`; unchanged conditions keep their lastTransitionTime."""
    inits = [one for one in containers if one.init]
    mains = [one for one in containers if not one.init]
    phase = _phase(pod, inits, mains)
    not_ready = [one.name for one in mains if not one.ready]
    pending_inits = [one.name for one in inits if not one.succeeded]
    over = phase in ("Succeeded", "Failed")
    not_ready_why = (
        ("PodCompleted", "") if phase == "Succeeded"
        else ("PodFailed", "") if phase == "Failed"
        else ("ContainersNotReady", f"containers with unready status: [{' '.join(not_ready)}]")
    )  # fmt: skip
    ready = not not_ready and not over
    conditions = [
        _condition("Initialized", not pending_inits, "ContainersNotInitialized",
                   f"containers with incomplete status: [{' '.join(pending_inits)}]"),
        _condition("Ready", ready, *not_ready_why),
        _condition("ContainersReady", ready, *not_ready_why),
        _condition("PodScheduled", True, "", ""),
    ]  # fmt: skip
    present = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
    for condition in conditions:
        before = present.get(condition["type"]) or {}
        same = before.get("status") == condition["status"] and before.get("lastTransitionTime")
        condition["lastTransitionTime"] = before["lastTransitionTime"] if same else timestamp(now)
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": conditions,
        "hostIP": LOOPBACK,
        "podIP": LOOPBACK,
        "podIPs": [{"ip": LOOPBACK}],
        "startTime": timestamp(started_at),
        "qosClass": (pod.get("status") or {}).get("qosClass") or "BestEffort",
        "containerStatuses": [one.report() for one in mains],
    }
    if inits:
        status["initContainerStatuses"] = [one.report() for one in inits]
    return status


def _phase(pod: dict[str, Any], inits: list[ContainerState], mains: list[ContainerState]) -> str:
    policy = pod["spec"].get("restartPolicy") or "Always"
    if any(not one.succeeded for one in inits):
        failed = policy == "Never" and any("terminated" in one.state and not one.succeeded for one in inits)
        return "Failed" if failed else "Pending"
    # Only a container that never ran makes the Pod Pending, not one that waits for a restart.
    if any("waiting" in one.state and not one.last for one in mains):
        return "Pending"
    if any(one.is_running for one in mains) or policy == "Always":
        return "Running"
    codes = [(one.state.get("terminated") or one.last.get("terminated") or {}).get("exitCode", 1) for one in mains]
    if policy == "OnFailure" and any(codes):
        return "Running"
    return "Failed" if any(codes) else "Succeeded"


def _condition(kind: str, true: bool, reason: str, message: str) -> dict[str, Any]:
    condition: dict[str, Any] = {"type": kind, "status": "True" if true else "False", "lastProbeTime": None}
    if not true:
        condition.update({"reason": reason, **({"message": message} if message else {})})
    return condition
