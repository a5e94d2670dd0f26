"""Events of a deployment: what the streams `deployment/<id>` hold.

To add an event: a class here and in `DEPLOYMENT_EVENTS` at the end; a handler in `state.HANDLERS`, or the list of
ignored classes there; a line in `cli/summaries.py`. Tests prove that none of the three is missing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.event import Event, JsonObject, Registry
from engine.kubernetes.fingerprint import Fingerprint
from engine.ports import ObjectKey
from engine.runtime.backoff import ActDeferred, ActRefused


class SecretReference(BaseModel):
    """A key of a Kubernetes Secret that the owner of the deployment made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    """Environment variable that the key fills."""
    secret_name: str
    secret_key: str


class RevisionEvent(Event):
    """Base of the events about one revision."""

    revision_id: str


# --- what the control plane asks for


class DeploymentRegistered(Event):
    """The control plane has a deployment for this listener."""

    deployment_id: str
    name: str
    workspace_id: str
    namespace: str
    lgp: str
    """Name of its LGP."""
    listener_id: str = ""
    """Listener that the deployment is for; empty in older logs."""


class RevisionRequested(RevisionEvent):
    """The control plane asks for this revision, or for other content of it."""

    image: str
    resource_spec: JsonObject
    secret_names: tuple[str, ...]
    secrets_digest: str
    """Keyed digest of names and values."""
    secret_references: tuple[SecretReference, ...] = ()
    content_digest: str
    """Keyed digest of all that was read of the resource."""
    based_on: str | None = None
    """Content digest of the stream when the poll read it; the request is void if the stream has another one by now."""


class RevisionSuperseded(RevisionEvent):
    """A newer revision came before this one was deployed."""

    by: str
    """Id of the newer revision."""


class DeletionRequested(Event):
    """The control plane asks for the deletion of the deployment."""

    reason: str


class Paused(Event):
    """A person paused the deployment: the listener performs no act for it, except reports to the control plane."""

    by: str


class Resumed(Event):
    """A person resumed the deployment."""

    by: str


# --- what acts did


class SecretsApplied(RevisionEvent):
    """The Secret of a revision is in the cluster."""

    secret: str
    """Name of the Secret."""
    digest: str
    """Keyed digest of its names and values."""


class LgpAdopted(RevisionEvent):
    """The listener adopts an LGP of the deployment that another listener wrote."""

    lgp: str
    """Its name, which it keeps."""
    uid: str
    spec_digest: str = ""
    """Keyed digest of a spec that already asks for the revision, and stays as it is; empty: the spec is rewritten."""
    differences: tuple[str, ...] = ()
    """Fields in which a spec that is rewritten does not ask for the revision."""
    database: JsonObject = {}
    """Fields of `spec.database` that are kept for good."""
    managers: tuple[str, ...] = ()
    """Field managers that wrote the LGP."""


class LgpApplied(RevisionEvent):
    """The LGP of a revision is in the cluster."""

    manifest_digest: str
    fingerprint: Fingerprint
    created: bool
    restored: bool = False
    """The LGP was put back to this revision, because the revision after it failed."""
    stopped: bool = False
    """The LGP asks for no pods, because this revision failed."""


class LgpRejected(RevisionEvent):
    """The API server rejects the LGP or its Secret."""

    key: ObjectKey
    """The rejected object."""
    message: str


class HealthChecked(RevisionEvent):
    """The listener tried `GET /ok` through the configured hostname."""

    ok: bool
    url: str
    detail: str
    attempt: int


class RevisionDeployed(RevisionEvent):
    """The revision serves."""


class RevisionFailed(RevisionEvent):
    """The revision failed, and is not tried again."""

    reason: str
    message: str


class SecretsPruned(Event):
    """The Secrets of earlier revisions are deleted."""

    kept: str
    """Name of the Secret that stays."""
    deleted: tuple[str, ...]


class DeletionStarted(Event):
    """The listener deleted the LGP; its finalizers and its objects may keep it for a while."""

    existed: bool


class DeletionPending(Event):
    """The LGP still exists after its deletion."""

    finalizers: tuple[str, ...]


class DeploymentDeleted(Event):
    """Nothing of the deployment that the listener made is left."""


class StatusReported(Event):
    """The listener reported a status to the control plane."""

    subject: Literal["revision", "deployment"]
    id: str
    status: str


class StatusReportRejected(Event):
    """The control plane refused a status report."""

    subject: Literal["revision", "deployment"]
    id: str
    status: str
    reason: str
    unsupported: bool
    """The control plane takes no reports at all."""


class EndpointPublished(Event):
    """The control plane shows the URL of the deployment."""

    url: str


class EndpointNotPublished(Event):
    """The control plane does not show the URL of the deployment."""

    url: str
    reason: str


# --- what is observed in the cluster


class RolloutObserved(Event):
    """The LGP's status changed in a field that matters."""

    generation: int
    """Generation of the LGP that the status is about."""
    available: bool
    progressing: bool
    database_ready: bool
    failing_since: datetime | None = None
    reason: str = ""
    message: str = ""
    replicas: int = 0
    ready: int = 0
    updated_revision: str = ""
    warning: str = ""
    """What differs from the spec although the revision serves; empty when nothing does."""


class DriftDetected(Event):
    """The LGP or the Secret is not as it was applied."""

    key: ObjectKey
    """The object that changed."""
    change: str


class LgpGone(Event):
    """The LGP does not exist."""


DEPLOYMENT_EVENTS = Registry(
    DeploymentRegistered,
    RevisionRequested,
    RevisionSuperseded,
    DeletionRequested,
    SecretsApplied,
    LgpAdopted,
    LgpApplied,
    LgpRejected,
    RolloutObserved,
    HealthChecked,
    RevisionDeployed,
    RevisionFailed,
    SecretsPruned,
    DriftDetected,
    LgpGone,
    DeletionStarted,
    DeletionPending,
    DeploymentDeleted,
    StatusReported,
    StatusReportRejected,
    EndpointPublished,
    EndpointNotPublished,
    Paused,
    Resumed,
    ActDeferred,
    ActRefused,
)
