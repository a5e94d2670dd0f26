"""What may be sent to the control plane: request bodies and query strings as pydantic models.

Only the form is checked here, exactly as far as the public document describes it (FastAPI's 422). What the document
leaves to the server, such as names, namespaces and which fields fit together, is checked in `rules` (400).
Unknown fields are ignored, as the hosted API does; Kubernetes snippets keep Kubernetes' own camelCase.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic.alias_generators import to_camel

from sandbox.control_plane.lifecycle import DEPLOYMENT_STATUSES, REVISION_STATUSES

Source = Literal["github", "external_docker", "internal_docker", "internal_source"]
DeploymentType = Literal["dev_free", "dev", "prod"]


def _one_decimal(cores: float) -> float:
    return round(cores, 1)


def _one_of(statuses: frozenset[str]) -> AfterValidator:
    def check(status: str) -> str:
        if status not in statuses:
            raise ValueError(f"'{status}' is not one of {', '.join(sorted(statuses))}")
        return status

    return AfterValidator(check)


Cores = Annotated[float, Field(ge=0.1), AfterValidator(_one_decimal)]
"""The public document allows 8 cores, and 16 as a limit. Those are the hosted service's own nodes: a data plane runs on
nodes of its owner, where the cluster alone decides what is too much."""


class Form(BaseModel):
    """Base of everything sent to us: strict types (a string is no number), finite numbers."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class KubernetesForm(Form):
    model_config = ConfigDict(alias_generator=to_camel)


class Secret(Form):
    name: str
    value: str


class SecretReference(Form):
    name: str
    secret_name: str
    secret_key: str


class LocalObjectReference(Form):
    name: str


class EnvVar(KubernetesForm):
    name: str
    value: str | None = None
    value_from: dict[str, Any] | None = None


class ResourceRequirements(Form):
    limits: dict[str, str] | None = None
    requests: dict[str, str] | None = None


class VolumeMount(KubernetesForm):
    """Nothing is required by the document, but null is refused; the cluster judges what is missing."""

    name: str = ""
    mount_path: str = ""
    sub_path: str | None = None
    mount_propagation: str | None = None
    read_only: bool | None = None
    sub_path_expr: str | None = None


class Volume(KubernetesForm):
    name: str = ""
    config_map: dict[str, Any] | None = None
    secret: dict[str, Any] | None = None
    empty_dir: dict[str, Any] | None = None
    persistent_volume_claim: dict[str, Any] | None = None
    nfs: dict[str, Any] | None = None
    projected: dict[str, Any] | None = None
    downward_api: dict[str, Any] | None = Field(default=None, alias="downwardAPI")
    csi: dict[str, Any] | None = None


class Container(KubernetesForm):
    name: str
    image: str
    image_pull_policy: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    working_dir: str | None = None
    env: list[EnvVar] | None = None
    env_from: list[dict[str, Any]] | None = None
    resources: ResourceRequirements | None = None
    volume_mounts: list[VolumeMount] | None = None
    security_context: dict[str, Any] | None = None
    restart_policy: str | None = None


class ResourceSpec(Form):
    """Cores are rounded to one decimal; no default is filled in: that is the data plane's part."""

    min_scale: int | None = None
    max_scale: int | None = None
    cpu: Cores | None = None
    cpu_limit: Cores | None = None
    memory_mb: int | None = None
    memory_limit_mb: int | None = None
    queue_min_scale: int | None = None
    queue_max_scale: int | None = None
    queue_cpu: Cores | None = None
    queue_cpu_limit: Cores | None = None
    queue_memory_mb: int | None = None
    queue_memory_limit_mb: int | None = None
    orchestrator_cpu: float | None = None
    orchestrator_cpu_limit: float | None = None
    orchestrator_memory_mb: int | None = None
    orchestrator_memory_limit_mb: int | None = None
    orchestrator_min_scale: int | None = None
    orchestrator_max_scale: int | None = None
    executor_cpu: float | None = None
    executor_cpu_limit: float | None = None
    executor_memory_mb: int | None = None
    executor_memory_limit_mb: int | None = None
    redis_cpu: Cores | None = None
    redis_cpu_limit: Cores | None = None
    redis_memory_mb: int | None = None
    redis_memory_limit_mb: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    service_account_name: str | None = None
    image_pull_secrets: list[LocalObjectReference] | None = None
    volumes: list[Volume] | None = None
    volume_mounts: list[VolumeMount] | None = None
    init_containers: list[Container] | None = None
    sidecars: list[Container] | None = None
    db_cpu: float | None = None
    db_cpu_limit: float | None = None
    db_memory_mb: int | None = None
    db_memory_limit_mb: int | None = None
    db_storage_gi: int | None = None
    db_max_connections: int | None = None


class ListenerConfig(Form):
    k8s_namespace: str | None = None


class SourceConfig(Form):
    integration_id: UUID | None = None
    repo_url: str | None = None
    deployment_type: DeploymentType | None = None
    build_on_push: bool | None = None
    custom_url: str | None = None
    resource_spec: ResourceSpec | None = None
    listener_id: UUID | None = None
    listener_config: ListenerConfig | None = None
    install_command: str | None = None
    build_command: str | None = None


class SourceRevisionConfig(Form):
    repo_ref: str | None = None
    langgraph_config_path: str | None = None
    image_uri: str | None = None
    source_tarball_path: str | None = None


class DeploymentCreate(Form):
    name: str
    source: Source
    source_config: SourceConfig
    source_revision_config: SourceRevisionConfig
    secrets: list[Secret]
    secret_references: list[SecretReference] | None = None


class DeploymentPatch(Form):
    """`name` and `source` are no fields of a patch; they are read to refuse a change instead of ignoring it."""

    name: Any = None
    source: Any = None
    revision_source: Literal["github", "internal_docker", "internal_source"] | None = None
    source_config: SourceConfig | None = None
    source_revision_config: SourceRevisionConfig | None = None
    secrets: list[Secret] | None = None
    secret_references: list[SecretReference] | None = None


class ComputeConfig(Form):
    k8s_namespaces: list[str] | None = None


class ListenerCreate(Form):
    version: str | None = None
    compute_type: Literal["k8s"]
    compute_id: str
    compute_config: ComputeConfig


class ListenerPatch(Form):
    """`compute_type` and `compute_id` never change; they are read to refuse a change instead of ignoring it."""

    version: str | None = None
    compute_config: ComputeConfig | None = None
    compute_type: Any = None
    compute_id: Any = None


class RevisionReport(Form):
    status: Annotated[str, _one_of(REVISION_STATUSES)]
    reason: str | None = None
    message: str | None = None


class DeploymentReport(Form):
    status: Annotated[str, _one_of(DEPLOYMENT_STATUSES)]
    reason: str | None = None
    message: str | None = None


class LogsRequest(BaseModel):
    """Body of `langgraph deploy logs`; lax, because times come as ISO 8601 strings with or without a zone."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    order: Literal["asc", "desc"] = "desc"
    level: str | None = None
    query: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None


class Page(BaseModel):
    """Query strings are text, so these models convert; what is not named here is ignored."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0)] = 0


# What JSON calls true, false and null are words in a query string; 0, 1, on and off are not the document's booleans.
WORDS = {"true": True, "false": False, "null": None}
Words = BeforeValidator(lambda value: WORDS.get(str(value).lower(), value))
Flag = Annotated[bool, Strict(), Words]


class DeploymentsQuery(Page):
    name: str | None = None
    name_contains: str | None = None
    status: str | None = None
    remote_reconciled: Annotated[Flag | None, Words] = None
    tag_value_ids: str | None = None
    image_version: str | None = None
    deployment_type: Annotated[DeploymentType | None, Words] = None
    deployment_ids: str | None = None
    agent_id: str | None = None
    agent_environment: str | None = None


class RevisionsQuery(Page):
    status: str | None = None
    remote_reconciled: Annotated[Flag | None, Words] = None


class DeleteQuery(BaseModel):
    delete_tracing_project: Flag = False


class BulkDeleteQuery(BaseModel):
    deployment_ids: Annotated[list[UUID], Field(max_length=100)]
