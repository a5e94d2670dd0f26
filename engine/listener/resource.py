"""A deployment as the control plane gives it, and the events that bring a stream up to it. Pure.

Shapes follow the control plane's public OpenAPI (`Deployment`, `SourceConfig`, `ResourceSpec`, `Secret`,
`SecretReference`). What we do not read is not parsed; what we read is validated, and an error names the field's path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import InvalidResource
from engine.event import Event, Json
from engine.folding import canonical
from engine.listener import events as e
from engine.listener.state import OPEN, DeploymentState
from engine.names import lgp_name

Digest = Callable[[bytes], str]
"""Keyed digest of bytes that may hold secrets."""

SOURCE = "external_docker"
"""The only source that a data plane serves."""


class Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ListenerPlacement(Lenient):
    k8s_namespace: str = Field(min_length=1)


class SourceConfig(Lenient):
    listener_id: str
    listener_config: ListenerPlacement
    resource_spec: dict[str, Any] | None = None


class SourceRevisionConfig(Lenient):
    image_uri: str = Field(min_length=1)


class Secret(Lenient):
    name: str = Field(min_length=1)
    value: str = Field(repr=False)


class DeploymentResource(Lenient):
    """One element of `GET /v2/deployments`."""

    id: str
    name: str = Field(min_length=1)
    tenant_id: str
    status: str
    latest_revision_id: str | None
    source_config: SourceConfig
    source_revision_config: SourceRevisionConfig
    secrets: tuple[Secret, ...] = Field(default=(), repr=False)
    secret_references: tuple[e.SecretReference, ...] | None = None


def addressed_to(resource: dict[str, Json], listener_id: str, workspace_id: str) -> bool:
    """Whether an undecoded resource is for this listener in this workspace. Anything else is never touched."""
    if not isinstance(resource, dict) or resource.get("source") != SOURCE:
        return False
    source_config = resource.get("source_config")
    if not isinstance(source_config, dict) or source_config.get("listener_id") != listener_id:
        return False
    return resource.get("tenant_id") == workspace_id


def content_digest(resource: dict[str, Json], digest: Digest) -> str:
    """Return the keyed digest of what we act on, from an undecoded resource.

    Our own status reports change `updated_at`, `status` and `active_revision_id`; they are left out, save for the
    one status that is a wish. So is `custom_url`, which says where people reach the deployment, not what it is.
    """
    source_config = resource.get("source_config")
    if isinstance(source_config, dict):
        source_config = {key: value for key, value in source_config.items() if key != "custom_url"}
    return digest(
        canonical(
            [
                resource.get("name"),
                resource.get("latest_revision_id"),
                source_config,
                resource.get("source_revision_config"),
                resource.get("secrets"),
                resource.get("secret_references"),
                resource.get("status") == "AWAITING_DELETE",
            ]
        )
    )


def parse(resource: dict[str, Json]) -> DeploymentResource:
    """Return the parsed resource. Raises InvalidResource with the path of the first wrong field."""
    try:
        return DeploymentResource.model_validate(resource)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        name = f"deployment {resource.get('id', '(no id)')}"
        raise InvalidResource(name, path, f"{first['msg']}; correct it on the control plane") from None


def secrets_digest(resource: DeploymentResource, digest: Digest) -> str:
    """Return the keyed digest of the secrets' names and values, whatever their order."""
    return digest(canonical({secret.name: secret.value for secret in resource.secrets}))


def changes(state: DeploymentState, resource: DeploymentResource, content: str, digest: Digest) -> list[Event]:
    """Return the events that bring `state` up to `resource`; none when there is nothing new.

    `content` is the content digest of the resource.
    """
    known = bool(state.id) and not state.deleted
    wants_deletion = resource.status == "AWAITING_DELETE"
    if not known and wants_deletion and not state.id:
        # It was deleted before we ever saw it. Still registered: something of it may be in the cluster.
        return [_registered(resource), e.DeletionRequested(reason="AWAITING_DELETE")]
    if state.deleted and wants_deletion:
        return []
    found: list[Event] = [] if known else [_registered(resource)]
    if wants_deletion:
        if not state.deletion_reason:
            found.append(e.DeletionRequested(reason="AWAITING_DELETE"))
        return found
    if state.deletion_reason and known:
        return []
    if resource.latest_revision_id is None or (known and state.content_digest == content):
        return found
    current = state.revision if known else None
    if current is not None and current.id != resource.latest_revision_id and current.phase in OPEN:
        found.append(e.RevisionSuperseded(revision_id=current.id, by=resource.latest_revision_id))
    found.append(
        e.RevisionRequested(
            revision_id=resource.latest_revision_id,
            image=resource.source_revision_config.image_uri,
            resource_spec=_without_nulls(resource.source_config.resource_spec or {}),
            secret_names=tuple(sorted(secret.name for secret in resource.secrets)),
            secrets_digest=secrets_digest(resource, digest),
            secret_references=tuple(resource.secret_references or ()),
            content_digest=content,
        )
    )
    return found


def _registered(resource: DeploymentResource) -> e.DeploymentRegistered:
    return e.DeploymentRegistered(
        deployment_id=resource.id,
        name=resource.name,
        workspace_id=resource.tenant_id,
        namespace=resource.source_config.listener_config.k8s_namespace,
        lgp=lgp_name(resource.name, resource.id),
    )


def _without_nulls(value: Any) -> Any:
    """Return `value` without keys whose value is null, at any depth."""
    match value:
        case dict():
            return {key: _without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [_without_nulls(item) for item in value]
        case _:
            return value
