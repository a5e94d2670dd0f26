"""The listener's acts: every touch of the outside world, as values and as the functions that perform them.

Each may run twice, late, or next to its twin. Each returns at least one event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from engine.drift import fingerprint
from engine.errors import ObjectRefused, ReportRefused, ReportsUnsupported
from engine.event import Event
from engine.folding import digest as plain_digest
from engine.listener import events as e
from engine.listener import resource as r
from engine.listener.config import ListenerConfig
from engine.listener.desired import deployment_selector, lgp_manifest, secret_manifest, secret_name
from engine.listener.environment import API_KEY_FIELD
from engine.listener.state import DeploymentState
from engine.machine import Act
from engine.names import LGP_API_VERSION, LGP_KIND, LISTENER_MANAGER
from engine.ports import ObjectKey, Ports


class ApplySecrets(Act):
    """Fetch the revision's secret values and put them into its Secret."""

    revision_id: str


class ApplyLgp(Act):
    """Apply the LGP of the current revision."""

    revision_id: str
    manifest_digest: str
    """Of the manifest to apply: what a replay compares."""


class CheckHealth(Act):
    """`GET /ok` through the configured hostname."""

    revision_id: str
    url: str
    attempt: int


class CompleteRevision(Act):
    """The revision is rolled out and healthy: note it."""

    revision_id: str


class FailRevision(Act):
    """Give the revision up."""

    revision_id: str
    reason: str
    message: str


class PruneSecrets(Act):
    """Delete the Secrets of earlier revisions."""

    keep: str


class DeleteLgp(Act):
    """Ask the LGP to go, after its objects."""


class ConfirmDeletion(Act):
    """Look whether the LGP is gone."""


class DeleteSecrets(Act):
    """Delete every Secret of the deployment."""


class ReportStatus(Act):
    """Tell the control plane."""

    subject: Literal["revision", "deployment"]
    id: str
    status: str
    reason: str | None
    message: str | None


def perform(act: Act, state: DeploymentState, ports: Ports, config: ListenerConfig) -> Sequence[Event]:
    """Perform `act` for the deployment in `state`; return what happened."""
    return PERFORMERS[act.name](act, state, ports, config)


def _apply_secrets(act: ApplySecrets, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    raw = ports.control_plane.deployment(state.id)
    resource = r.parse(raw)
    newer = r.changes(state, resource, r.content_digest(raw, ports.digest), ports.digest)
    if newer:
        return newer
    values = {secret.name: secret.value for secret in resource.secrets}
    content = r.secrets_digest(resource, ports.digest)
    name = secret_name(state.lgp, content)
    manifest = secret_manifest(state, config, name, {**values, API_KEY_FIELD: ports.api_key})
    try:
        ports.cluster.apply(manifest, manager=LISTENER_MANAGER, before_write=ports.keep_lock)
    except ObjectRefused as error:
        return _rejected(act.revision_id, f"Secret {state.namespace}/{name}", str(error))
    return [e.SecretsApplied(revision_id=act.revision_id, secret=name, digest=content)]


def _apply_lgp(act: ApplyLgp, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    manifest = lgp_manifest(state, config)
    try:
        applied = ports.cluster.apply(manifest, manager=LISTENER_MANAGER, before_write=ports.keep_lock)
    except ObjectRefused as error:
        return _rejected(act.revision_id, f"LGP {state.namespace}/{state.lgp}", str(error))
    return [
        e.LgpApplied(
            revision_id=act.revision_id,
            manifest_digest=plain_digest(manifest),
            fingerprint=fingerprint(applied.manifest, LISTENER_MANAGER),
            created=applied.created,
        )
    ]


def _rejected(revision_id: str, rejected: str, message: str) -> list[Event]:
    return [
        e.LgpRejected(revision_id=revision_id, object=rejected, message=message),
        e.RevisionFailed(revision_id=revision_id, reason="ObjectRejected", message=f"{rejected}: {message}"),
    ]


def _check_health(act: CheckHealth, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    health = ports.health.check(act.url)
    return [
        e.HealthChecked(
            revision_id=act.revision_id, ok=health.ok, url=act.url, detail=health.detail, attempt=act.attempt
        )
    ]


def _complete(act: CompleteRevision, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    return [e.RevisionDeployed(revision_id=act.revision_id)]


def _fail(act: FailRevision, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    return [e.RevisionFailed(revision_id=act.revision_id, reason=act.reason, message=act.message)]


def _prune_secrets(act: PruneSecrets, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    secrets = ports.cluster.list("v1", "Secret", state.namespace, labels=deployment_selector(state.id))
    stale = sorted(s["metadata"]["name"] for s in secrets if s["metadata"]["name"] != act.keep)
    for name in stale:
        ports.keep_lock()
        ports.cluster.delete(ObjectKey(api_version="v1", kind="Secret", namespace=state.namespace, name=name))
    return [e.SecretsPruned(kept=act.keep, deleted=tuple(stale))]


def _lgp_key(state: DeploymentState) -> ObjectKey:
    return ObjectKey(api_version=LGP_API_VERSION, kind=LGP_KIND, namespace=state.namespace, name=state.lgp)


def _delete_lgp(act: DeleteLgp, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    ports.keep_lock()
    existed = ports.cluster.delete(_lgp_key(state), propagation="Foreground")
    return [e.DeletionStarted(existed=existed)]


def _confirm_deletion(
    act: ConfirmDeletion, state: DeploymentState, ports: Ports, config: ListenerConfig
) -> list[Event]:
    lgp = ports.cluster.get(_lgp_key(state))
    if lgp is None:
        return [e.LgpGone()]
    return [e.DeletionPending(finalizers=tuple(lgp["metadata"].get("finalizers", ())))]


def _delete_secrets(act: DeleteSecrets, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    ports.keep_lock()
    ports.cluster.delete_all("v1", "Secret", state.namespace, labels=deployment_selector(state.id))
    return [e.DeploymentDeleted()]


def _report(act: ReportStatus, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    try:
        if act.subject == "revision":
            ports.control_plane.report_revision(state.id, act.id, act.status, reason=act.reason, message=act.message)
        else:
            ports.control_plane.report_deployment(state.id, act.status, reason=act.reason)
    except ReportRefused as error:
        return [
            e.StatusReportRejected(
                subject=act.subject,
                id=act.id,
                status=act.status,
                reason=str(error),
                unsupported=isinstance(error, ReportsUnsupported),
            )
        ]
    return [e.StatusReported(subject=act.subject, id=act.id, status=act.status)]


Performer = Callable[[Any, DeploymentState, Ports, ListenerConfig], Sequence[Event]]

PERFORMERS: dict[str, Performer] = {
    "ApplySecrets": _apply_secrets,
    "ApplyLgp": _apply_lgp,
    "CheckHealth": _check_health,
    "CompleteRevision": _complete,
    "FailRevision": _fail,
    "PruneSecrets": _prune_secrets,
    "DeleteLgp": _delete_lgp,
    "ConfirmDeletion": _confirm_deletion,
    "DeleteSecrets": _delete_secrets,
    "ReportStatus": _report,
}
