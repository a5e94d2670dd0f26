"""The Agent Server: Deployment of API servers, Deployment of queue workers, and the Service of the API servers.

Both Deployments come from the same template and run the same image. The Agent Server's container is the one called
`api-server`, else the template's first container. Queue workers run `/storage/queue_entrypoint.sh`. That program
answers `/ok` on PORT as well (observed with langgraph-api 0.16), so queue workers keep the template's ports and probes.

An API server with queue workers beside it executes no runs itself. When the LGP asks for an autoscaler, the manifest
has no replica count, since the autoscaler decides on it; `engine/operator/scaling.py` describes the handover.

Unless the template says otherwise, a rollout adds pods before it removes any, so that the old revision serves until
the new one is ready.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from engine.errors import InvalidResource
from engine.operator import templates
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp, Resources
from engine.operator.manifests import adopted, overlay, routes
from engine.operator.manifests.environment import environment
from engine.operator.manifests.naming import object_names
from engine.ports import JsonObject, Manifest

CONTAINER = "api-server"
PORT = 8000
QUEUE_COMMAND = ["/storage/queue_entrypoint.sh"]
ROLLING_UPDATE = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What the image of an Agent Server runs as: API server or queue worker."""

    name: str
    """Name of the Deployment."""
    replicas: int | None
    """None: the template's number, which is one by default."""
    resources: Resources
    jobs: int | None
    """Runs that a process executes at the same time; None: the number in the environment, else the default."""
    command: list[str] | None = None
    """None: the template's command, else the image's."""


def server(lgp: Lgp, config: OperatorConfig) -> Manifest:
    """Return the Deployment of the API servers. Raises SettingsError, InvalidResource."""
    spec = lgp.spec.server_spec
    role = Role(
        name=object_names(lgp, config).server,
        replicas=spec.replicas,
        resources=spec.resources,
        jobs=0 if spec.queue_enabled else spec.num_jobs_per_worker,
    )
    return _deployment(lgp, config, role, selected_by=tuple(service(lgp, config)["spec"]["selector"]))


def queue(lgp: Lgp, config: OperatorConfig) -> Manifest | None:
    """Return the Deployment of the queue workers, None when there are none. Raises SettingsError, InvalidResource."""
    spec = lgp.spec.server_spec
    if not spec.queue_enabled:
        return None
    least = lgp.spec.autoscaling.queue_min_replicas
    role = Role(
        name=object_names(lgp, config).queue,
        replicas=spec.replicas if least is None else least,
        resources=spec.resources if spec.queue_resources is None else spec.queue_resources,
        jobs=spec.num_jobs_per_worker,
        command=QUEUE_COMMAND,
    )
    return _deployment(lgp, config, role)


def service(lgp: Lgp, config: OperatorConfig) -> Manifest:
    """Return the Service of the API servers. Raises SettingsError."""
    name = object_names(lgp, config).server
    manifest = templates.fill("service", config.templates.service, {"name": name, "namespace": lgp.namespace})
    manifest["metadata"] = overlay.metadata(lgp, name, manifest.get("metadata"))
    for port in manifest["spec"]["ports"]:
        port.setdefault("protocol", "TCP")
    adopted.keep_selector(lgp, manifest)
    return manifest


def main_container(deployment: Manifest) -> JsonObject:
    """Return the container of the Agent Server in a Deployment that was made here, or in the template."""
    containers: list[JsonObject] = deployment["spec"]["template"]["spec"]["containers"]
    return next((one for one in containers if one.get("name") == CONTAINER), containers[0])


def _deployment(lgp: Lgp, config: OperatorConfig, role: Role, *, selected_by: tuple[str, ...] = ()) -> Manifest:
    spec = lgp.spec.server_spec
    manifest = templates.fill(
        "deployment",
        config.templates.deployment,
        {
            "name": role.name,
            "namespace": lgp.namespace,
            "replicas": 1 if role.replicas is None else role.replicas,
            "image": spec.image,
        },
    )
    if lgp.spec.autoscaling.enabled:
        manifest["spec"].pop("replicas", None)
    elif role.replicas is not None:
        manifest["spec"]["replicas"] = role.replicas
    manifest["spec"].setdefault("strategy", deepcopy(ROLLING_UPDATE))
    overlay.limit_history(config, manifest)
    _container(lgp, config, role, main_container(manifest))
    _pod(lgp, manifest)
    adopted.keep_selector(lgp, manifest, role.name)
    adopted.keep_selected(lgp, manifest, role.name)
    overlay.merge_workload(
        lgp, manifest, role.name, labels=spec.labels, annotations=spec.annotations, selected_by=selected_by
    )
    return manifest


def _container(lgp: Lgp, config: OperatorConfig, role: Role, container: JsonObject) -> None:
    spec = lgp.spec.server_spec
    container["image"] = spec.image
    if role.command is not None:
        container["command"] = list(role.command)
        container.pop("args", None)
    ports = container.get("ports") or [{"containerPort": PORT}]
    container["env"] = environment(
        lgp,
        config,
        container.get("env") or (),
        jobs=role.jobs,
        port=ports[0]["containerPort"],
        mount_prefix=routes.mount_prefix(lgp, config),
    )
    if spec.volume_mounts:
        container["volumeMounts"] = overlay.merge_lists(container.get("volumeMounts"), spec.volume_mounts, "mountPath")
    overlay.merge_resources_into(container, role.resources)


def _pod(lgp: Lgp, manifest: Manifest) -> None:
    """Merge `spec.serverSpec` of the LGP into the pod, in place."""
    spec = lgp.spec.server_spec
    pod = manifest["spec"]["template"]["spec"]
    main = main_container(manifest)["name"]
    for field, containers in (("sidecars", spec.sidecars), ("initContainers", spec.init_containers)):
        if any(one.get("name") == main for one in containers):
            problem = f"the name {main!r} belongs to the Agent Server's own container; give this container another name"
            raise InvalidResource(f"LGP {lgp.namespace}/{lgp.name}", f"spec.serverSpec.{field}", problem)
    added: tuple[tuple[str, list[JsonObject]], ...] = (
        ("imagePullSecrets", spec.image_pull_secrets),
        ("initContainers", spec.init_containers),
        ("containers", spec.sidecars),
        ("volumes", spec.volumes),
    )
    for field, items in added:
        if items:
            pod[field] = overlay.merge_lists(pod.get(field), [deepcopy(item) for item in items], "name")
    if spec.service_account_name:
        pod["serviceAccountName"] = spec.service_account_name
