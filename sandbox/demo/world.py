"""What a step of the demo can observe and touch: clients of the running stack, and waits with a time limit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from engine.agent_path import agent_path
from engine.event import Record
from engine.log.redis import RedisLog
from engine.names import LGP_LABEL, deployment_stream, lgp_name, lgp_stream
from sandbox.stack import PREFIX, Stack, kubernetes_client, run, tool

T = TypeVar("T")

COLLECTIONS = (
    "/apis/apps.langchain.ai/v1alpha1/namespaces/{ns}/lgps",
    "/apis/apps/v1/namespaces/{ns}/deployments",
    "/apis/apps/v1/namespaces/{ns}/replicasets",
    "/apis/apps/v1/namespaces/{ns}/statefulsets",
    "/api/v1/namespaces/{ns}/pods",
    "/api/v1/namespaces/{ns}/services",
    "/api/v1/namespaces/{ns}/secrets",
    "/api/v1/namespaces/{ns}/persistentvolumeclaims",
)
"""API paths of every kind that a deployment may have objects of."""


class StepFailed(Exception):
    """A check of a demo step failed; the message says which."""


def expect(condition: bool, problem: str) -> None:
    """Raise StepFailed with the message `problem` unless `condition` is true."""
    if not condition:
        raise StepFailed(problem)


def eventually(what: str, seconds: float, check: Callable[[], T | None]) -> T:
    """Call `check` until it returns a true value, and return that value; raise StepFailed after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise StepFailed(f"expected within {seconds:g} s: {what}")
        time.sleep(0.05)


def image(app: str, version: int) -> str:
    """Return the reference of a sandbox image, by digest; each `version` has another digest."""
    return f"sandbox.local/{app}@sha256:{hashlib.sha256(f'{app} {version}'.encode()).hexdigest()}"


@dataclass
class World:
    """The running stack as its users reach it: control plane, Kubernetes API, Agent Servers, event log."""

    stack: Stack
    control_plane: httpx.Client = field(init=False)
    kubernetes: httpx.Client = field(init=False)
    agents: httpx.Client = field(init=False)
    events: RedisLog = field(init=False)
    secrets: list[str] = field(default_factory=list, repr=False)
    """Every secret value that the demo used."""
    objects: int = 0
    """How many objects the first deployment had when it was ready."""
    probes: int = 0
    """How many requests the prober made during the update."""
    probe_failures: list[str] = field(default_factory=list)
    """What went wrong with each failed request of the prober."""

    def __post_init__(self) -> None:
        key = self.stack.api_key
        self.secrets.append(key)
        self.control_plane = httpx.Client(base_url=self.stack.control_plane_url, headers={"X-Api-Key": key}, timeout=10)
        self.kubernetes = kubernetes_client(self.stack.kubeconfig)
        self.agents = httpx.Client(headers={"X-Api-Key": key}, timeout=30)
        self.events = RedisLog.from_url(self.stack.redis_url, PREFIX)

    # --- the langgraph command

    def project(self, name: str, secrets: dict[str, str]) -> Path:
        """Create a project folder for `langgraph deploy`, with `secrets` in its `.env`; return its path."""
        self.secrets += secrets.values()
        folder = self.stack.directory / "projects" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.py").touch()
        config = {"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["."], "env": ".env"}
        (folder / "langgraph.json").write_text(json.dumps(config))
        (folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in secrets.items()))
        return folder

    def langgraph(self, *arguments: str, folder: Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `langgraph deploy …` in `folder` against the control plane, for at most `seconds`."""
        environment = {
            key: value for key, value in self.stack.environment().items() if not key.startswith("AGENTPLANE_")
        }
        environment |= {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGSMITH_API_KEY": self.stack.api_key}
        command = [tool("langgraph"), "deploy", *arguments, "--host-url", self.stack.control_plane_url]
        wrapped = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command]
        return run(wrapped, env=environment, seconds=seconds)

    def deploy(
        self, name: str, image_uri: str, secrets: dict[str, str], *, wait: bool = True, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `langgraph deploy --image-uri …` with the given secrets; unless `wait`, only create the revision."""
        arguments = ["--name", name, "--image-uri", image_uri, "--no-input"]
        if not wait:
            arguments.append("--no-wait")
        return self.langgraph(*arguments, folder=self.project(name, secrets), seconds=seconds)

    # --- the control plane

    def deployment(self, name: str) -> dict[str, Any]:
        """Return the control plane's deployment of this name. Raises StepFailed unless there is exactly one."""
        found = self.control_plane.get("/v2/deployments", params={"name": name}).raise_for_status().json()["resources"]
        expect(len(found) == 1, f"the control plane has {len(found)} deployments named {name!r}")
        resource: dict[str, Any] = found[0]
        return resource

    def revision(self, deployment_id: str, revision_id: str) -> dict[str, Any]:
        resource: dict[str, Any] = (
            self.control_plane.get(f"/v2/deployments/{deployment_id}/revisions/{revision_id}").raise_for_status().json()
        )
        return resource

    def revision_status(self, name: str) -> str:
        """Return the status of a deployment's latest revision, e.g. DEPLOYED."""
        deployment = self.deployment(name)
        status: str = self.revision(deployment["id"], deployment["latest_revision_id"])["status"]
        return status

    # --- the cluster

    def lgp(self, name: str) -> str:
        """Return the name of a deployment's LGP."""
        return lgp_name(name, self.deployment(name)["id"])

    def object(self, path: str) -> dict[str, Any] | None:
        """Return the object or list at an API path, None when there is none; `{ns}` is the stack's namespace."""
        response = self.kubernetes.get(path.format(ns=self.stack.namespace))
        if response.status_code == 404:
            return None
        found: dict[str, Any] = response.raise_for_status().json()
        return found

    def objects_of(self, lgp: str) -> list[str]:
        """Return `<kind> <name>` of every object that belongs to an LGP, and of the LGP itself."""
        found = []
        for path in COLLECTIONS:
            listed = self.kubernetes.get(path.format(ns=self.stack.namespace)).raise_for_status().json()
            for item in listed["items"]:
                metadata = item["metadata"]
                if metadata["name"].startswith(lgp) or metadata.get("labels", {}).get(LGP_LABEL) == lgp:
                    found.append(f"{listed['kind'].removesuffix('List')} {metadata['name']}")
        return found

    # --- the Agent Server

    def url(self, lgp: str, path: str) -> str:
        return f"http://{self.stack.hostname}{agent_path('', lgp)}{path}"

    def ask(self, lgp: str, name: str = "Ada") -> dict[str, Any]:
        """Run the graph of an LGP's Agent Server through the ingress; return the graph's output."""
        body = {"assistant_id": "agent", "input": {"name": name}}
        response = self.agents.post(self.url(lgp, "/runs/wait"), json=body)
        expect(response.status_code == 200, f"POST /runs/wait: {response.status_code} {response.text[:300]}")
        answer: dict[str, Any] = response.json()
        return answer

    # --- the event log

    def deployment_events(self, deployment_id: str) -> list[Record]:
        return self.events.read(deployment_stream(deployment_id))

    def lgp_events(self, lgp: str) -> list[Record]:
        return self.events.read(lgp_stream(self.stack.namespace, lgp))

    def close(self) -> None:
        for client in (self.control_plane, self.kubernetes, self.agents):
            client.close()
