"""A data plane that Helm installs on the cluster, and its LangSmith workspace."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import yaml

from engine.names import lgp_name
from engine.operator import templates
from sandbox.control_plane.server import ControlPlane
from sandbox.stack import run, tool
from tests.chart.rendering import CHART, RELEASE, UPSTREAM, Values, helm, layered
from tests.cluster import place
from tests.cluster.cluster import LGPS, PATIENCE, PODS, Cluster, Manifest
from tests.support.eventually import eventually

HELM_SECONDS = 180
COMPONENTS = ("beat", "listener", "operator", "watcher")
ELSEWHERE = {"POSTGRES_URI_CUSTOM": "postgres://nobody@127.0.0.1/none", "REDIS_URI_CUSTOM": "redis://127.0.0.1/0"}
"""Secrets of a deployment with an external database and Redis: it has one pod instead of three."""


def modest() -> Values:
    """Values with resource requests for a node of two CPUs, and short times for tests."""
    asked = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    return {
        **{component: {"deployment": {"resources": asked}} for component in COMPONENTS},
        "redis": {"statefulSet": {"resources": asked}},
        "operator": {
            "deployment": {"resources": asked},
            "templates": {"db": template("DB"), "redis": template("REDIS")},
        },
        "config": {
            "settings": {
                "poll_seconds": 1,
                "sweep_seconds": 1,
                "lock_seconds": 5,
                "failure_grace_seconds": 6,
                "deletion_guard_share": 1,
            }
        },
    }


def template(name: str) -> str:
    """Return a built-in template whose container requests almost no CPU and memory."""
    made = yaml.safe_load(getattr(templates, name))
    made["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "20m", "memory": "32Mi"}}
    return str(yaml.safe_dump(made))


def upstream() -> Values:
    """Return the default values of the upstream chart, or no values if its file is missing."""
    return dict(yaml.safe_load(UPSTREAM.read_text(encoding="utf-8"))) if UPSTREAM.exists() else {}


def image(reference: str) -> Values:
    """Return values that set the image of the data plane."""
    found = place.Image.of(reference)
    return {"images": {"agentplaneImage": {"repository": found.repository, "tag": found.tag}}}


def ingress() -> Values:
    """Return values that expose Agent Servers at paths of a shared Ingress that the chart makes."""
    hostname, name = place.variable("HOSTNAME"), place.variable("INGRESS_CLASS")
    return {
        "ingress": {"enabled": True, "hostname": hostname, "ingressClassName": name, "tlsEnabled": False},
        "gateway": {"enabled": False, "name": "", "namespace": "", "hostname": ""},
    }


def gateway() -> Values:
    """Return values that expose each Agent Server with an HTTPRoute at an existing Gateway."""
    namespace, _, name = place.variable("GATEWAY").partition("/")
    hostname = place.variable("HOSTNAME")
    return {
        "ingress": {"enabled": False, "hostname": "", "ingressClassName": ""},
        "gateway": {
            "enabled": True,
            "name": name,
            "namespace": namespace,
            "hostname": hostname,
            "tlsEnabled": False,
        },
    }


EXPOSURES = {"ingress": ingress, "gateway": gateway}


@dataclass
class Workspace:
    """A LangSmith workspace with one listener, as its user sees it."""

    url: str
    """URL of the control plane."""
    id: str
    listener: str
    key: str = field(repr=False)
    http: httpx.Client = field(repr=False)
    folder: Path

    @classmethod
    def make(cls, control_plane: ControlPlane, folder: Path, *namespaces: str) -> Workspace:
        """Make a workspace and its listener for `namespaces`, as the page Deployments > Listeners does."""
        identity, key = str(uuid4()), f"lsv2_pt_{secrets.token_hex(16)}"
        headers = control_plane.admit(key, identity)
        http = httpx.Client(base_url=control_plane.url, headers=headers, timeout=30)
        form = {"compute_type": "k8s", "compute_id": "node", "compute_config": {"k8s_namespaces": list(namespaces)}}
        listener = http.post("/v2/listeners", json=form).raise_for_status().json()["id"]
        return cls(control_plane.url, identity, listener, key, http, folder / identity)

    def values(self) -> Values:
        """Return the values that connect a data plane to this workspace."""
        return {
            "config": {
                "region": "",
                "hostBackendUrl": self.url,
                "smithBackendUrl": f"{self.url}/langsmith",
                "langsmithApiKey": self.key,
                "langsmithWorkspaceId": self.id,
                "langgraphListenerId": self.listener,
            }
        }

    def langgraph(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `langgraph deploy …` to its end; `env` is what the deployment's `.env` holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "agent.py").touch()
        config = {"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["."], "env": ".env"}
        (self.folder / "langgraph.json").write_text(json.dumps(config))
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in (env or {}).items()))
        command = [tool("langgraph"), "deploy", *arguments, "--host-url", self.url]
        variables = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGSMITH_API_KEY": self.key,
        }
        changed = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(self.folder), *command]
        return run(changed, env=variables, seconds=2 * PATIENCE)

    def deploy(self, name: str, image: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `langgraph deploy --image-uri` to its end."""
        return self.langgraph("--name", name, "--image-uri", image, "--no-input", env=env)

    def create(
        self, name: str, image: str, namespace: str = "", spec: Values | None = None, env: Mapping[str, str] = ELSEWHERE
    ) -> str:
        """Create a deployment as the UI does; return its id."""
        source: Values = {"listener_id": self.listener, "resource_spec": spec or {}}
        if namespace:
            source["listener_config"] = {"k8s_namespace": namespace}
        form = {
            "name": name,
            "source": "external_docker",
            "source_config": source,
            "source_revision_config": {"image_uri": image},
            "secrets": [{"name": key, "value": value} for key, value in env.items()],
        }
        created: str = self.http.post("/v2/deployments", json=form).raise_for_status().json()["id"]
        return created

    def update(self, deployment_id: str, **changes: Any) -> None:
        """Change a deployment: `image`, `env`, `spec`; each makes a new revision."""
        form: Values = {}
        if "image" in changes:
            form["source_revision_config"] = {"image_uri": changes["image"]}
        if "env" in changes:
            form["secrets"] = [{"name": name, "value": value} for name, value in changes["env"].items()]
        if "spec" in changes:
            form["source_config"] = {"resource_spec": changes["spec"]}
        self.http.patch(f"/v2/deployments/{deployment_id}", json=form).raise_for_status()

    def delete(self, *deployment_ids: str) -> None:
        """Ask for the deletion of deployments."""
        for deployment_id in deployment_ids:
            self.http.delete(f"/v2/deployments/{deployment_id}").raise_for_status()

    def deployments(self) -> list[Manifest]:
        found: list[Manifest] = []
        while page := self.http.get("/v2/deployments", params={"limit": 100, "offset": len(found)}).json()["resources"]:
            found += page
        return found

    def deployment(self, name: str) -> Manifest:
        return next(one for one in self.deployments() if one["name"] == name)

    def url_of(self, name: str) -> str:
        """Wait until the data plane has published the URL of a deployment; return the URL."""
        url: str = eventually(lambda: self.deployment(name)["source_config"].get("custom_url"), f"{name} has a URL")
        return url

    def revision(self, name: str) -> str:
        """Return the status of the latest revision of a deployment."""
        found = self.deployment(name)
        path = f"/v2/deployments/{found['id']}/revisions/{found['latest_revision_id']}"
        status: str = self.http.get(path).raise_for_status().json()["status"]
        return status

    def unfinished(self) -> list[str]:
        """Return the names of deployments whose latest revision is not the active one, or that are being deleted."""
        return [
            one["name"]
            for one in self.deployments()
            if one["latest_revision_id"] != one["active_revision_id"] or one["status"] == "AWAITING_DELETE"
        ]

    def wait_until_deployed(self, seconds: float = PATIENCE) -> None:
        """Wait until the latest revision of every deployment is the active one."""
        eventually(lambda: not self.unfinished(), f"deployed: {self.unfinished()}", seconds)


@dataclass
class DataPlane:
    """A release of the chart."""

    cluster: Cluster
    workspace: Workspace
    namespace: str
    agents: str
    """Namespaces of the Agent Servers, separated by commas."""
    values: Values
    chart: Path = CHART
    release: str = RELEASE
    notes: str = ""
    """The notes of Helm's last install or upgrade."""

    def upgrade(self, *changes: Values, chart: Path | None = None, wait: bool = True) -> None:
        """Run `helm upgrade -i --wait` with the values and `changes`; later upgrades keep `changes`."""
        self.values, self.chart = layered(self.values, *changes), chart or self.chart
        with self.helm() as config:
            present = self.release in [found["name"] for found in config.list(all_states=True)]
            act = config.upgrade if present else config.install
            loaded = helm.Chart.load(self.chart)
            try:
                act(loaded, self.release, self.values, wait="watcher" if wait else "hookOnly", timeout=HELM_SECONDS)
            except helm.HelmError as error:
                raise AssertionError(f"{error}\n{self.diagnostics()}") from error
            self.notes = config.get_all(self.release)["info"]["notes"]

    def uninstall(self) -> None:
        """Run `helm uninstall --wait --ignore-not-found`."""
        with self.helm() as config:
            config.uninstall(self.release, wait="watcher", timeout=HELM_SECONDS, ignore_not_found=True)

    def helm(self) -> Any:
        return helm.Config(kubeconfig_path=self.cluster.kubeconfig, namespace=self.namespace)

    def pods(self, component: str = "") -> list[Manifest]:
        """Return the pods of the release, or of one component."""
        labels = f"app.kubernetes.io/instance={self.release}"
        if component:
            labels += f",app.kubernetes.io/component={self.release}-{component}"
        return self.cluster.listed(PODS, self.namespace, labels)

    def agentplane(self, *arguments: str, component: str = "listener", check: bool = True) -> str:
        """Run a command in a pod of the release, as docs/install.md says; return its output."""
        pod = f"deploy/{self.release}-{component}"
        return self.cluster.kubectl("-n", self.namespace, "exec", pod, "--", "agentplane", *arguments, check=check)

    def findings(self, component: str) -> list[dict[str, str]]:
        """Return the findings of `agentplane doctor` in a pod of a component."""
        output = self.agentplane("doctor", "--json", component=component, check=False)
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def status(self) -> list[dict[str, Any]]:
        """Return the lines of `agentplane status --json`."""
        output = self.agentplane("status", "--json", check=False)
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def reason(self, name: str) -> str:
        """Return the reason that `agentplane status` gives for a deployment."""
        return next((line["reason"] for line in self.status() if line.get("name") == name), "")

    def log(self) -> list[dict[str, Any]]:
        """Return every event of the log, as `agentplane export` writes them."""
        lines = self.agentplane("export").splitlines()
        return [record for line in lines if line.startswith("{") and "type" in (record := json.loads(line))]

    def lgp(self, name: str) -> Manifest | None:
        """Return the LGP of a deployment."""
        return self.cluster.get(f"{LGPS.format(ns=self.agents)}/{self.lgp_name(name)}")

    def lgp_name(self, name: str) -> str:
        return lgp_name(name, self.workspace.deployment(name)["id"])

    def diagnostics(self) -> str:
        """Return pods, events and the end of each log, for the message of a failed test."""
        shown = ["get", "pods", "-o", "wide"], ["get", "events", "--sort-by=.lastTimestamp"]
        words = [self.cluster.kubectl("-n", self.namespace, *arguments, check=False)[-3000:] for arguments in shown]
        for component in COMPONENTS:
            pod = f"deploy/{self.release}-{component}"
            words.append(self.cluster.kubectl("-n", self.namespace, "logs", pod, "--tail=15", check=False)[-2500:])
        return "\n".join(words)


ONCE = ("RevisionRequested", "SecretsApplied", "RevisionDeployed")
"""Types of events that each revision has exactly once."""


def doubled(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what the log holds more than once although it can happen only once."""
    counts: Counter[str] = Counter()
    for record in records:
        stream, kind, content = record["stream"], record["type"], record["data"]
        if kind == "DeploymentRegistered":
            counts[f"{stream} {kind}"] += 1
        elif kind in ONCE:
            counts[f"{stream} {kind} {content['revision_id']}"] += 1
        elif kind == "StatusReported":
            counts[f"{stream} {content['id']} {content['status']}"] += 1
    return [what for what, times in counts.items() if times > 1]


Install = Callable[..., DataPlane]
