"""Pydantic models of the requests to the control plane: bodies and query strings.

These models check what the public OpenAPI document describes; a mismatch is FastAPI's 422. `rules` checks what the
document leaves to the server, such as names, namespaces and combinations of fields (400). Unknown fields are ignored,
as the hosted API ignores them. Parts of Kubernetes objects keep the camelCase names of Kubernetes.
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
"""Cores, rounded to one decimal. The public document allows at most 8, and 16 as a limit: these numbers fit the nodes
of the hosted service. A data plane runs on its owner's nodes, so only the cluster limits the cores here."""


class Form(BaseModel):
    """Base of all request bodies: strict types (a string is not accepted as a number), finite numbers."""

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
    """The OpenAPI document requires no field but refuses null; Kubernetes validates missing fields."""

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
    """Resources of a deployment. Defaults are not filled in here: the data plane has them."""

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
    """`name` and `source` cannot be patched; they are declared so that `rules` can refuse a change of them."""

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
    """`compute_type` and `compute_id` cannot be patched; they are declared so that `rules` can refuse a change."""

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
    """Body that `langgraph deploy logs` sends; not strict, because times are ISO 8601 strings with or without zone."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    order: Literal["asc", "desc"] = "desc"
    level: str | None = None
    query: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None


class Page(BaseModel):
    """A page of a list. Query strings are text, so this model and its subclasses convert types."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0)] = 0


# The booleans of a query string are the words true and false; the OpenAPI document has no 0, 1, on or off.
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
