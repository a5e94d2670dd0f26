"""A deployment as the control plane lists it, and the events that bring a stream up to it. Pure.

Shapes follow the control plane's public OpenAPI (`Deployment`, `SourceConfig`, `ResourceSpec`, `Secret`,
`SecretReference`). Fields that the listener does not read are not parsed. Fields that it reads are validated, and an
error names the field's path.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.digests import canonical
from engine.errors import InvalidResource
from engine.event import Event, Json
from engine.listener.events import (
    DeletionRequested,
    DeploymentRegistered,
    RevisionRequested,
    RevisionSuperseded,
    SecretReference,
)
from engine.listener.resource_spec import ResourceSpec
from engine.listener.state import OPEN, DeploymentState
from engine.names import lgp_name

Resource = dict[str, Json]
"""A deployment as the control plane lists it, undecoded."""

Digest = Callable[[bytes], str]
"""Keyed digest of bytes that may hold secrets."""

SOURCE = "external_docker"
"""The only source that a data plane serves."""

AWAITING_DELETE = "AWAITING_DELETE"
"""The status by which the control plane asks for a deletion."""


class Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ListenerPlacement(Lenient):
    k8s_namespace: str = Field(min_length=1)


class Placement(Lenient):
    """The part of `source_config` that names the deployment's listener and namespace."""

    listener_id: str
    listener_config: ListenerPlacement


class SourceConfig(Placement):
    resource_spec: ResourceSpec | None = None


class SourceRevisionConfig(Lenient):
    image_uri: str = Field(min_length=1)


class Secret(Lenient):
    name: str = Field(min_length=1)
    value: str = Field(repr=False)


class DeletedResource(Lenient):
    """A deployment that is marked for deletion. Other invalid fields do not block the deletion."""

    id: str = Field(pattern=r"^[0-9a-fA-F-]{32,36}$")
    name: str = Field(min_length=1)
    tenant_id: str
    source_config: Placement


class DeploymentResource(DeletedResource):
    """One element of `GET /v2/deployments`."""

    latest_revision_id: str | None = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
    source_config: SourceConfig
    source_revision_config: SourceRevisionConfig
    secrets: tuple[Secret, ...] | None = Field(default=(), repr=False)
    secret_references: tuple[SecretReference, ...] | None = None


def addressed_to(resource: Resource, listener_id: str, workspace_id: str) -> bool:
    """Whether an undecoded resource is for this listener in this workspace. No other resource is ever touched."""
    if not isinstance(resource, dict) or resource.get("source") != SOURCE:
        return False
    source_config = resource.get("source_config")
    if not isinstance(source_config, dict) or source_config.get("listener_id") != listener_id:
        return False
    return resource.get("tenant_id") == workspace_id


def content_digest(resource: Resource, digest: Digest) -> str:
    """Return the keyed digest of the fields that the listener acts on, from an undecoded resource.

    Our own reports change `updated_at`, `status`, `active_revision_id` and `custom_url`, so the digest leaves them out.
    The one status that asks for something, AWAITING_DELETE, is part of the digest.
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
                resource.get("status") == AWAITING_DELETE,
            ]
        )
    )


def display_name(resource: Resource) -> str:
    """Return the name of an undecoded resource for messages."""
    known = resource.get("id")
    return f"deployment {known}" if isinstance(known, str) else f"deployment (no id) {resource.get('name')!s:.80}"


def parse_deployment(resource: Resource) -> DeploymentResource | DeletedResource:
    """Return the parsed resource. Raises InvalidResource with the path of the first wrong field."""
    model = DeletedResource if resource.get("status") == AWAITING_DELETE else DeploymentResource
    try:
        return model.model_validate(resource)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InvalidResource(
            display_name(resource), path, f"{first['msg']}; correct it on the control plane"
        ) from None


def secrets_digest(resource: DeploymentResource, digest: Digest) -> str:
    """Return the keyed digest of the secrets' names and values, whatever their order."""
    return digest(canonical({secret.name: secret.value for secret in resource.secrets or ()}))


def changes_to(
    state: DeploymentState, resource: DeploymentResource | DeletedResource, content: str, digest: Digest
) -> list[Event]:
    """Return the events that bring `state` up to `resource`; none when there is nothing new.

    `content` is the content digest of the resource. A deletion cannot be taken back: a deployment that the control
    plane asks for again starts anew after its deletion. Raises InvalidResource for a deployment that moved to another
    namespace, which the control plane's API excludes.
    """
    known = bool(state.id) and not state.deleted
    if not isinstance(resource, DeploymentResource):
        return _deletion(state, resource)
    if known and state.deletion is not None:
        return []
    namespace = resource.source_config.listener_config.k8s_namespace
    if known and namespace != state.namespace:
        raise InvalidResource(
            f"deployment {resource.id}",
            "source_config.listener_config.k8s_namespace",
            f"is {namespace!r}, but the deployment is in {state.namespace!r}, and a deployment never moves; change it "
            "back, or make another deployment",
        )
    placed = (state.registration.workspace_id, state.registration.listener_id or resource.source_config.listener_id)
    moved = placed != (resource.tenant_id, resource.source_config.listener_id)
    found: list[Event] = [] if known and not moved else [_registered(resource)]
    if resource.latest_revision_id is None or (known and state.revisions.content_digest == content):
        return found
    current = state.revision if known else None
    if current is not None and current.id != resource.latest_revision_id and current.phase in OPEN:
        found.append(RevisionSuperseded(revision_id=current.id, by=resource.latest_revision_id))
    spec = resource.source_config.resource_spec
    found.append(
        RevisionRequested(
            revision_id=resource.latest_revision_id,
            image=resource.source_revision_config.image_uri,
            resource_spec=_without_nulls(spec.model_dump(mode="json", exclude_unset=True)) if spec else {},
            secret_names=tuple(sorted(secret.name for secret in resource.secrets or ())),
            secrets_digest=secrets_digest(resource, digest),
            secret_references=tuple(resource.secret_references or ()),
            content_digest=content,
            based_on=state.revisions.content_digest if known else "",
        )
    )
    return found


def _deletion(state: DeploymentState, resource: DeletedResource) -> list[Event]:
    if state.deleted or state.deletion is not None:
        return []
    # A deployment that the listener sees for the first time is registered too: it may have objects in the cluster.
    registered = [] if state.id else [_registered(resource)]
    return [*registered, DeletionRequested(reason=AWAITING_DELETE)]


def _registered(resource: DeletedResource) -> DeploymentRegistered:
    return DeploymentRegistered(
        deployment_id=resource.id,
        name=resource.name,
        workspace_id=resource.tenant_id,
        listener_id=resource.source_config.listener_id,
        namespace=resource.source_config.listener_config.k8s_namespace,
        lgp=lgp_name(resource.name, resource.id),
    )


def _without_nulls(value: Json) -> Json:
    """Return `value` without keys whose value is null, at any depth."""
    match value:
        case dict():
            return {key: _without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [_without_nulls(item) for item in value]
        case _:
            return value
