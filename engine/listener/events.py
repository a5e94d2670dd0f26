"""What happens to a deployment: the events of the streams `deployment/<id>`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from engine.event import Event, Registry
from engine.kubernetes.fingerprint import Fingerprint
from engine.runtime.retry import ActDeferred, ActRefused


class SecretReference(BaseModel):
    """A key of a Kubernetes Secret that the deployment's owner made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    """The environment variable it fills."""
    secret_name: str
    secret_key: str


class DeploymentRegistered(Event):
    """The control plane has a deployment for this listener."""

    deployment_id: str
    name: str
    workspace_id: str
    namespace: str
    lgp: str
    """Name of its LGP."""
    listener_id: str = ""
    """Whose it is; empty in older logs."""


class RevisionRequested(Event):
    """The control plane asks for this revision, or for other content of it."""

    revision_id: str
    image: str
    resource_spec: dict[str, Any]
    secret_names: tuple[str, ...]
    secrets_digest: str
    """Keyed digest of names and values."""
    secret_references: tuple[SecretReference, ...] = ()
    content_digest: str
    """Keyed digest of all that was read of the resource."""
    based_on: str | None = None
    """Content digest that the stream had when this was found; the request is void where it has another one by now."""


class RevisionSuperseded(Event):
    """A newer revision came before this one was deployed."""

    revision_id: str
    by: str


class DeletionRequested(Event):
    """The deployment is to go."""

    reason: str


class SecretsApplied(Event):
    """The Secret of a revision is in the cluster."""

    revision_id: str
    secret: str
    digest: str


class LgpAdopted(Event):
    """An LGP of the deployment is there that another listener wrote. It is taken over."""

    revision_id: str
    lgp: str
    """Its name: it stays."""
    uid: str
    spec_digest: str = ""
    """Keyed, of a spec that asks for the revision already, and is left as it is; empty: it is written anew."""
    differences: tuple[str, ...] = ()
    """Why it is: the fields in which it does not."""
    database: dict[str, Any] = {}
    """What of its database is kept for good."""
    managers: tuple[str, ...] = ()
    """Field managers that wrote it."""


class LgpApplied(Event):
    """The LGP of a revision is in the cluster."""

    revision_id: str
    manifest_digest: str
    fingerprint: Fingerprint
    created: bool
    restored: bool = False
    """It was put back to this revision, for the one after it failed."""
    stopped: bool = False
    """It asks for no pods, for this revision failed."""


class LgpRejected(Event):
    """The API server does not take the LGP or its Secret."""

    revision_id: str
    object: str
    message: str


class RolloutObserved(Event):
    """The LGP's status changed in something that matters."""

    generation: int
    """The generation that the status speaks of."""
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
    """What is not as asked although it serves; empty when nothing is."""


class HealthChecked(Event):
    """`GET /ok` was tried through the configured hostname."""

    revision_id: str
    ok: bool
    url: str
    detail: str
    attempt: int


class RevisionDeployed(Event):
    """The revision serves."""

    revision_id: str


class RevisionFailed(Event):
    """The revision is given up."""

    revision_id: str
    reason: str
    message: str


class SecretsPruned(Event):
    """Secrets of earlier revisions are gone."""

    kept: str
    deleted: tuple[str, ...]


class DriftDetected(Event):
    """The LGP or the Secret is no longer what was applied."""

    object: str
    change: str


class LgpGone(Event):
    """The LGP does not exist."""


class DeletionStarted(Event):
    """The LGP was asked to go."""

    existed: bool


class DeletionPending(Event):
    """The LGP still exists."""

    finalizers: tuple[str, ...]


class DeploymentDeleted(Event):
    """Nothing of the deployment that the listener made is left."""


class StatusReported(Event):
    """The control plane was told."""

    subject: Literal["revision", "deployment"]
    id: str
    status: str


class StatusReportRejected(Event):
    """The control plane does not want to be told this."""

    subject: Literal["revision", "deployment"]
    id: str
    status: str
    reason: str
    unsupported: bool
    """It takes no reports at all."""


class EndpointPublished(Event):
    """The control plane shows where the deployment is reached."""

    url: str


class EndpointNotPublished(Event):
    """The control plane does not show where the deployment is reached."""

    url: str
    reason: str


class Paused(Event):
    """A person stopped all acts for this deployment."""

    by: str


class Resumed(Event):
    """A person let acts go on."""

    by: str


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
