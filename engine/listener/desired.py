"""The LGP and the Secret that a deployment should have, from its state. Pure.

`resource_spec` has the meaning that the control plane's OpenAPI gives it: limits are twice the request unless given
(Redis memory: equal to it), a queue worker takes the server's values for what is not given, cores are rounded to one
decimal place, memory is in MiB. Fields that the OpenAPI marks as "do not use" are not used.
"""

from __future__ import annotations

from engine.listener.config import ListenerConfig
from engine.listener.environment import platform_environment, secret_variable
from engine.listener.state import DeploymentState, Phase, Revision
from engine.names import (
    DEPLOYMENT_LABEL,
    LGP_API_VERSION,
    LGP_KIND,
    LISTENER_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    REVISION_LABEL,
    SECRETS_ANNOTATION,
    STOPPED_ANNOTATION,
    STOPPED_MESSAGE_ANNOTATION,
)
from engine.ports import JsonObject, Manifest, ObjectKey

FAILS_FOR_EVER = frozenset(
    {
        "CrashLoopBackOff",
        "RunContainerError",
        "StartError",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
    }
)
"""Reasons for which a failed revision is stopped: its pods crash, or their image cannot be pulled, again and again.
Pods that merely wait (for a node, a quota, a volume, a Secret) cost nothing, and come up when the cluster recovers."""
LONGEST_MESSAGE = 8000
"""Characters of a failure's message that an LGP carries."""

CUSTOM_POSTGRES = "POSTGRES_URI_CUSTOM"
CUSTOM_REDIS = "REDIS_URI_CUSTOM"


def secret_name(lgp: str, digest: str) -> str:
    """Return the name of a revision's Secret: new content is a new object, so the serving pods keep theirs."""
    return f"{lgp}-env-{digest[:12]}"


def labels(state: DeploymentState, config: ListenerConfig) -> dict[str, str]:
    """Return the labels of everything that the listener makes for a deployment."""
    return {
        MANAGED_BY_LABEL: MANAGED_BY,
        DEPLOYMENT_LABEL: state.id,
        LISTENER_LABEL: config.listener_id,
    }


def deployment_selector(deployment_id: str) -> str:
    """Return the label selector of everything that the listener made for a deployment."""
    return f"{DEPLOYMENT_LABEL}={deployment_id},{MANAGED_BY_LABEL}={MANAGED_BY}"


def secret_key(state: DeploymentState, name: str) -> ObjectKey:
    """Return the key of a Secret of the deployment."""
    return ObjectKey(api_version="v1", kind="Secret", namespace=state.namespace, name=name)


def secret_manifest(state: DeploymentState, config: ListenerConfig, name: str, values: dict[str, str]) -> Manifest:
    """Return the Secret of the current revision. `values` are secret: send the result to the API server only."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": state.namespace, "labels": labels(state, config)},
        "type": "Opaque",
        "immutable": True,
        "stringData": dict(sorted(values.items())),
    }


def desired_manifest(state: DeploymentState, config: ListenerConfig) -> Manifest:
    """Return the LGP of the current revision.

    Raises ValueError if there is no revision, or if its Secret is not applied.
    """
    if state.revision is None:
        raise ValueError(f"deployment {state.id} has no revision; an LGP cannot be made for it")
    return lgp_manifest(state, state.revision, config)


def placed_manifest(state: DeploymentState, config: ListenerConfig) -> Manifest | None:
    """Return the LGP of the revision whose LGP was applied last; None if no LGP was applied."""
    placed = state.lgp.applied.revision if state.lgp.applied is not None else None
    return None if placed is None else lgp_manifest(state, placed, config)


def predecessor_manifest(state: DeploymentState, config: ListenerConfig) -> Manifest | None:
    """Return the LGP of the revision that was deployed before the current one; None if no revision was."""
    predecessor = state.revisions.predecessor
    return None if predecessor is None else lgp_manifest(state, predecessor, config)


def is_stopped(state: DeploymentState, revision: Revision, config: ListenerConfig) -> bool:
    """Whether the LGP of a revision asks for no pods: the revision fails for ever, and no revision was deployed before.

    An LGP that is older than this log may have pods of an earlier revision, which serve: such an LGP is never stopped.
    """
    failed = revision.phase is Phase.DEPLOY_FAILED and revision.reason in FAILS_FOR_EVER
    return config.stop_failed and failed and state.lgp.made and state.revisions.predecessor is None


def lgp_manifest(state: DeploymentState, revision: Revision, config: ListenerConfig) -> Manifest:
    """Return the LGP of a revision, without secret values.

    Of an adopted LGP that already asks for the revision, only our additions are returned. Raises ValueError if the
    revision's Secret is not applied.
    """
    if not revision.secret:
        raise ValueError(f"revision {revision.id} of {state.id} has no Secret; an LGP cannot be made for it")
    spec, stopped, adopted = revision.resource_spec, is_stopped(state, revision, config), state.lgp.adopted
    variables = {*revision.secret_names, *(reference.name for reference in revision.secret_references)}
    server = _drop_empty(
        {
            "image": revision.image,
            "replicas": 0 if stopped else spec.get("min_scale", 1),
            "resources": _requirements(spec, "cpu", "memory_mb"),
            "queueEnabled": config.queue_enabled,
            "queueResources": _requirements(queue_spec(spec), "cpu", "memory_mb"),
            "env": _environment(state, revision, config),
            "annotations": {SECRETS_ANNOTATION: revision.secrets_digest},
            "serviceAccountName": spec.get("service_account_name"),
            "imagePullSecrets": spec.get("image_pull_secrets"),
            "initContainers": spec.get("init_containers"),
            "sidecars": spec.get("sidecars"),
            "volumes": spec.get("volumes"),
            "volumeMounts": spec.get("volume_mounts"),
        }
    )
    database = {"enabled": CUSTOM_POSTGRES not in variables}
    if database["enabled"]:
        database |= _drop_empty(
            {
                "secretName": f"{state.lgp.name}-db",
                "resources": _requirements(spec, "db_cpu", "db_memory_mb"),
                "storageSizeGi": spec.get("db_storage_gi"),
                "maxConnections": spec.get("db_max_connections"),
            }
        )
        database |= adopted.database if adopted is not None else {}
    redis = {"enabled": CUSTOM_REDIS not in variables}
    if redis["enabled"]:
        redis |= _drop_empty({"resources": _requirements(spec, "redis_cpu", "redis_memory_mb", memory_limit_factor=1)})
    metadata = {
        "name": state.lgp.name,
        "namespace": state.namespace,
        "labels": {**labels(state, config), REVISION_LABEL: revision.id},
        **({"annotations": _stopped_annotations(revision)} if stopped else {}),
    }
    if adopted is not None and adopted.untouched_for == revision.id:
        return {"apiVersion": LGP_API_VERSION, "kind": LGP_KIND, "metadata": metadata}
    return {
        "apiVersion": LGP_API_VERSION,
        "kind": LGP_KIND,
        "metadata": metadata,
        "spec": _drop_empty(
            {
                "serverSpec": server,
                "database": database,
                "redis": redis,
                "ingress": {"enabled": config.routed},
                "autoscaling": None if stopped else _autoscaling(spec),
                "labels": spec.get("labels"),
                "annotations": spec.get("annotations"),
            }
        ),
    }


def _stopped_annotations(revision: Revision) -> dict[str, str]:
    """Return the annotations that tell the operator, and people with kubectl, why the LGP has no pods."""
    return {STOPPED_ANNOTATION: revision.reason, STOPPED_MESSAGE_ANNOTATION: revision.message[:LONGEST_MESSAGE]}


def _environment(state: DeploymentState, revision: Revision, config: ListenerConfig) -> list[JsonObject]:
    """Return all `env` entries, sorted by name: the platform's, the deployment's secrets, its references."""
    own = [secret_variable(name, revision.secret, name) for name in revision.secret_names]
    referenced = [secret_variable(r.name, r.secret_name, r.secret_key) for r in revision.secret_references]
    platform = platform_environment(
        config,
        deployment_id=state.id,
        deployment_name=state.registration.name,
        revision_id=revision.id,
        secret=revision.secret,
    )
    by_name = {entry["name"]: entry for entry in (*own, *referenced, *platform)}
    return [by_name[name] for name in sorted(by_name)]


def queue_spec(spec: JsonObject) -> JsonObject:
    """Return `cpu`, `memory_mb` and their limits of a queue worker; the requests default to the server's."""
    fields = ("cpu", "memory_mb", "cpu_limit", "memory_limit_mb")
    own = {field: spec[f"queue_{field}"] for field in fields if f"queue_{field}" in spec}
    return {field: spec[field] for field in ("cpu", "memory_mb") if field in spec} | own


def _requirements(
    spec: JsonObject, cpu: str, memory: str, *, memory_limit_factor: int = 2
) -> dict[str, dict[str, str]]:
    """Return Kubernetes resource requirements from the fields `cpu`, `memory` and their limits."""
    memory_limit = memory.replace("_mb", "_limit_mb")
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if cpu in spec:
        requests["cpu"] = cores(spec[cpu])
    if f"{cpu}_limit" in spec or cpu in spec:
        limits["cpu"] = cores(spec.get(f"{cpu}_limit", 2 * spec.get(cpu, 0)))
    if memory in spec:
        requests["memory"] = mebibytes(spec[memory])
    if memory_limit in spec or memory in spec:
        limits["memory"] = mebibytes(spec.get(memory_limit, memory_limit_factor * spec.get(memory, 0)))
    return _drop_empty({"requests": requests, "limits": limits})


def cores(value: float) -> str:
    """Return a Kubernetes quantity in canonical form for cores rounded to one decimal place."""
    tenths = round(value * 10)
    return str(tenths // 10) if tenths % 10 == 0 else f"{tenths * 100}m"


def mebibytes(value: int) -> str:
    """Return a Kubernetes quantity in canonical form for MiB."""
    return f"{value // 1024}Gi" if value % 1024 == 0 else f"{value}Mi"


def _autoscaling(spec: JsonObject) -> JsonObject | None:
    """Return `spec.autoscaling`; None if the bounds leave no room. The queue's bounds default to the server's."""
    low: int = spec.get("min_scale", 1)
    high: int = spec.get("max_scale", low)
    queue_low: int = spec.get("queue_min_scale", low)
    queue_high: int = spec.get("queue_max_scale", high)
    if high <= low and queue_high <= queue_low:
        return None
    return {
        "enabled": True,
        "minReplicas": low,
        "maxReplicas": max(high, low),
        "queueMinReplicas": queue_low,
        "queueMaxReplicas": max(queue_high, queue_low),
    }


def _drop_empty(value: JsonObject) -> JsonObject:
    """Return `value` without the keys whose value is None or empty."""
    return {key: item for key, item in value.items() if item is not None and item != {} and item != []}
