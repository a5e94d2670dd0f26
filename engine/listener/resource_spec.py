"""`source_config.resource_spec` of a deployment: its shape, by the control plane's public OpenAPI.

Types are strict (a string is not a number), so that `desired` can compute with the values. Unknown fields, and fields
that the OpenAPI marks as "do not use", are left out. The control plane and the cluster check upper bounds. Of the
Kubernetes snippets, only the fields that the OpenAPI requires are required; the other fields are passed on unchanged,
and the API server validates them. If it rejects one, the revision fails with its message, which more people see than
a skipped resource.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from engine.event import JsonObject

LARGEST_INTEGER = 2**31 - 1
"""Largest value of a Kubernetes replica count (int32)."""

Count = Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
Cores = Annotated[float, Field(ge=0.1, le=LARGEST_INTEGER)]
Mebibytes = Annotated[int, Field(ge=1)]
DatabaseCores = Annotated[float, Field(gt=0, le=LARGEST_INTEGER)]
"""The OpenAPI gives no lower bound for these, but for the other cores."""


class Snippet(BaseModel):
    """A snippet of the Kubernetes API."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class Named(Snippet):
    name: str


class Volume(Snippet):
    name: str | None = None


class Mount(Volume):
    mountPath: str | None = None  # noqa: N815


class EnvironmentVariable(Named):
    value: str | None = None
    valueFrom: JsonObject | None = None  # noqa: N815


class Container(Named):
    image: str
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[EnvironmentVariable] | None = None
    volumeMounts: list[Mount] | None = None  # noqa: N815


class ResourceSpec(BaseModel):
    """What a deployment asks for besides its image and variables."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    min_scale: Count | None = None
    max_scale: Count | None = None
    cpu: Cores | None = None
    cpu_limit: Cores | None = None
    memory_mb: Mebibytes | None = None
    memory_limit_mb: Mebibytes | None = None
    queue_min_scale: Count | None = None
    queue_max_scale: Count | None = None
    queue_cpu: Cores | None = None
    queue_cpu_limit: Cores | None = None
    queue_memory_mb: Mebibytes | None = None
    queue_memory_limit_mb: Mebibytes | None = None
    redis_cpu: Cores | None = None
    redis_cpu_limit: Cores | None = None
    redis_memory_mb: Mebibytes | None = None
    redis_memory_limit_mb: Mebibytes | None = None
    db_cpu: DatabaseCores | None = None
    db_cpu_limit: DatabaseCores | None = None
    db_memory_mb: Mebibytes | None = None
    db_memory_limit_mb: Mebibytes | None = None
    db_storage_gi: Annotated[int, Field(ge=1)] | None = None
    db_max_connections: Annotated[int, Field(ge=1, le=LARGEST_INTEGER)] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    service_account_name: str | None = None
    image_pull_secrets: list[Named] | None = None
    volumes: list[Volume] | None = None
    volume_mounts: list[Mount] | None = None
    init_containers: list[Container] | None = None
    sidecars: list[Container] | None = None
