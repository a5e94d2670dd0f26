"""How the listener's acts are performed: every touch of the outside world.

Each act may run twice, late, or next to its twin. Each performer returns at least one event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

from engine.digests import digest as plain_digest
from engine.errors import ControlPlaneUnavailable, InvalidResource, ObjectRefused, ReportRefused, ReportsUnsupported
from engine.event import Event
from engine.kubernetes.fingerprint import fingerprint
from engine.kubernetes.managed_fields import leftovers
from engine.listener import adoption
from engine.listener.acts import (
    ApplyLgp,
    ApplySecrets,
    CheckHealth,
    CompleteRevision,
    ConfirmDeletion,
    DeleteLgp,
    DeleteSecrets,
    FailRevision,
    PruneSecrets,
    PublishEndpoint,
    ReportStatus,
)
from engine.listener.config import ListenerConfig
from engine.listener.desired import (
    deployment_selector,
    desired_manifest,
    placed_manifest,
    predecessor_manifest,
    secret_key,
    secret_manifest,
    secret_name,
)
from engine.listener.environment import API_KEY_FIELD
from engine.listener.events import (
    DeletionPending,
    DeletionStarted,
    DeploymentDeleted,
    EndpointNotPublished,
    EndpointPublished,
    HealthChecked,
    LgpAdopted,
    LgpApplied,
    LgpGone,
    LgpRejected,
    RevisionDeployed,
    RevisionFailed,
    SecretsApplied,
    SecretsPruned,
    StatusReported,
    StatusReportRejected,
)
from engine.listener.resource import (
    DeploymentResource,
    Resource,
    addressed_to,
    changes_to,
    content_digest,
    display_name,
    parse_deployment,
    secrets_digest,
)
from engine.listener.state import OPEN, DeploymentState
from engine.names import DEPLOYMENT_LABEL, LGP_API_VERSION, LGP_KIND, LISTENER_MANAGER, is_object_name
from engine.ports import Manifest, ObjectKey, Ports, lgp_key
from engine.runtime.dispatch import Performers, by
from engine.runtime.machine import Act

REJECTED_FOR_GOOD = frozenset({422})
"""HTTP statuses that mean that the object itself is wrong. Every other refusal (a permission, a quota, a missing
namespace or definition, an admission webhook) can be fixed without a change of the deployment."""


@dataclass(frozen=True, slots=True)
class Context:
    """All that an act is performed with."""

    state: DeploymentState
    ports: Ports
    config: ListenerConfig


def perform(act: Act, context: Context) -> Sequence[Event]:
    """Perform `act`; return what happened, at least one event. Raises errors of `engine.errors`."""
    return PERFORMERS.perform(act, context)


def _apply_secrets(act: ApplySecrets, context: Context) -> list[Event]:
    state, ports, config = context.state, context.ports, context.config
    raw = ports.control_plane.deployment(state.id)
    resource = _parsed(raw, config)
    newer = changes_to(state, resource, content_digest(raw, ports.digest), ports.digest)
    if newer:
        return newer
    values = {secret.name: secret.value for secret in resource.secrets or ()}
    content = secrets_digest(resource, ports.digest)
    name = secret_name(state.lgp.name, content)
    manifest = secret_manifest(state, config, name, {**values, API_KEY_FIELD: ports.api_key})
    try:
        ports.cluster.apply(manifest, manager=LISTENER_MANAGER, before_write=ports.keep_lock)
    except ObjectRefused as error:
        return _rejected(state, act.revision_id, secret_key(state, name), error)
    return [SecretsApplied(revision_id=act.revision_id, secret=name, digest=content)]


def _parsed(raw: Resource, config: ListenerConfig) -> DeploymentResource:
    """Return the deployment that the control plane asks for now.

    Raises InvalidResource for a resource that cannot be parsed or is no longer for this data plane, and
    ControlPlaneUnavailable for a deployment that is being deleted.
    """
    if not addressed_to(raw, config.listener_id, config.workspace_id):
        raise InvalidResource(
            display_name(raw),
            "source_config.listener_id",
            f"is not {config.listener_id}, so it is not for this data plane",
        )
    resource = parse_deployment(raw)
    if not isinstance(resource, DeploymentResource):
        # Only the poll asks for deletions, because only the poll has the deletion guard.
        raise ControlPlaneUnavailable(f"{display_name(raw)} is being deleted; the next poll sees it")
    return resource


def _apply_lgp(act: ApplyLgp, context: Context) -> list[Event]:
    state, ports = context.state, context.ports
    manifest = _manifest(act, context)
    try:
        live, adopted = _inspect(context, manifest.get("spec"))
        if adopted is not None:
            return [adopted]
        applied = ports.cluster.apply(manifest, manager=LISTENER_MANAGER, before_write=ports.keep_lock, seen=live)
    except ObjectRefused as error:
        return _rejected(state, act.revision_id, lgp_key(state.namespace, state.lgp.name), error)
    return [
        LgpApplied(
            revision_id=act.revision_id,
            manifest_digest=plain_digest(manifest),
            fingerprint=fingerprint(applied.manifest, LISTENER_MANAGER),
            created=applied.created,
            restored=act.restores,
            stopped=act.stops,
        )
    ]


def _inspect(context: Context, spec: Manifest | None) -> tuple[Manifest | EllipsisType | None, LgpAdopted | None]:
    """Read the LGP where another listener may have written it. Return what was read (...: nothing), and the adoption.

    Before a `spec` is applied (None: the spec stays as it is), fields of our listener that another writer set, and that
    `spec` does not ask for, are removed.
    """
    state, ports = context.state, context.ports
    adopted = state.lgp.adopted
    if state.revision is None or (adopted is None and state.lgp.applied is not None):
        return ..., None
    live = ports.cluster.get(lgp_key(state.namespace, state.lgp.name))
    if adopted is None:
        if live is None and adoption.is_called_otherwise(state):
            live = _called_otherwise(state, ports)
        foreign = live is not None and adoption.is_foreign(live)
        return live, adoption.adopt(live, state.revision, ports) if live is not None and foreign else None
    if spec is None:
        if live is not None and adoption.is_still(live, adopted.spec_digest, ports):
            return live, None
        return live, adoption.disowned(state, live)
    left = adoption.without_others(leftovers(live, LISTENER_MANAGER, spec)) if live is not None else {}
    if live is None or not left:
        return live, None
    patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "spec": left}
    ports.cluster.patch(lgp_key(state.namespace, state.lgp.name), patch, before_write=ports.keep_lock)
    return ..., None


def _called_otherwise(state: DeploymentState, ports: Ports) -> Manifest | None:
    """Return the LGP of a deployment to which another listener gave another name; None when there is none."""
    full = adoption.full_name(state)
    live = ports.cluster.get(lgp_key(state.namespace, full)) if is_object_name(full) else None
    selectors = (f"{DEPLOYMENT_LABEL}={state.id}", f"!{DEPLOYMENT_LABEL}")
    for labels in selectors if live is None else ():
        found = ports.cluster.list(LGP_API_VERSION, LGP_KIND, state.namespace, labels=labels)
        live = live or adoption.of_deployment(state, found)
    return live


def _manifest(act: ApplyLgp, context: Context) -> Manifest:
    """Return the manifest that `act` means: the current revision's, or that of an earlier revision."""
    state, config = context.state, context.config
    for manifest in (placed_manifest(state, config), predecessor_manifest(state, config)):
        if manifest is not None and plain_digest(manifest) == act.manifest_digest:
            return manifest
    return desired_manifest(state, config)


def _rejected(state: DeploymentState, revision_id: str, key: ObjectKey, error: ObjectRefused) -> list[Event]:
    """Return the events of a rejected object; an open revision fails if the object itself is wrong."""
    found: list[Event] = [LgpRejected(revision_id=revision_id, key=key, message=str(error))]
    revision = state.revision
    is_open = revision is not None and revision.id == revision_id and revision.phase in OPEN
    if is_open and error.status in REJECTED_FOR_GOOD:
        message = f"{key}: {error}"
        found.append(RevisionFailed(revision_id=revision_id, reason="ObjectRejected", message=message))
    return found


def _check_health(act: CheckHealth, context: Context) -> list[Event]:
    health = context.ports.health.check(act.url)
    return [
        HealthChecked(revision_id=act.revision_id, ok=health.ok, url=act.url, detail=health.detail, attempt=act.attempt)
    ]


def _complete(act: CompleteRevision, context: Context) -> list[Event]:
    return [RevisionDeployed(revision_id=act.revision_id)]


def _fail(act: FailRevision, context: Context) -> list[Event]:
    return [RevisionFailed(revision_id=act.revision_id, reason=act.reason, message=act.message)]


def _prune_secrets(act: PruneSecrets, context: Context) -> list[Event]:
    state, ports = context.state, context.ports
    secrets = ports.cluster.list("v1", "Secret", state.namespace, labels=deployment_selector(state.id))
    stale = sorted(s["metadata"]["name"] for s in secrets if s["metadata"]["name"] != act.keep)
    for name in stale:
        ports.keep_lock()
        ports.cluster.delete(secret_key(state, name))
    return [SecretsPruned(kept=act.keep, deleted=tuple(stale))]


def _delete_lgp(act: DeleteLgp, context: Context) -> list[Event]:
    state, ports = context.state, context.ports
    ports.keep_lock()
    existed = ports.cluster.delete(lgp_key(state.namespace, state.lgp.name), propagation="Foreground")
    return [DeletionStarted(existed=existed)]


def _confirm_deletion(act: ConfirmDeletion, context: Context) -> list[Event]:
    state = context.state
    lgp = context.ports.cluster.get(lgp_key(state.namespace, state.lgp.name))
    if lgp is None:
        return [LgpGone()]
    return [DeletionPending(finalizers=tuple(lgp["metadata"].get("finalizers", ())))]


def _delete_secrets(act: DeleteSecrets, context: Context) -> list[Event]:
    state, ports = context.state, context.ports
    ports.keep_lock()
    ports.cluster.delete_all("v1", "Secret", state.namespace, labels=deployment_selector(state.id))
    return [DeploymentDeleted()]


def _report(act: ReportStatus, context: Context) -> list[Event]:
    state, ports = context.state, context.ports
    try:
        if act.subject == "revision":
            ports.control_plane.report_revision(state.id, act.id, act.status, reason=act.reason, message=act.message)
        else:
            ports.control_plane.report_deployment(state.id, act.status, reason=act.reason)
    except ReportRefused as error:
        return [
            StatusReportRejected(
                subject=act.subject,
                id=act.id,
                status=act.status,
                reason=str(error),
                unsupported=isinstance(error, ReportsUnsupported),
            )
        ]
    return [StatusReported(subject=act.subject, id=act.id, status=act.status)]


def _publish_endpoint(act: PublishEndpoint, context: Context) -> list[Event]:
    state, ports, config = context.state, context.ports, context.config
    raw = ports.control_plane.deployment(state.id)
    if not addressed_to(raw, config.listener_id, config.workspace_id):
        return [EndpointNotPublished(url=act.url, reason="the deployment is not for this data plane any more")]
    shown = raw["source_config"].get("custom_url") or ""
    if shown == act.url:
        return [EndpointPublished(url=act.url)]
    if shown not in ("", act.replaces):
        return [EndpointNotPublished(url=act.url, reason="the deployment has a custom URL of its own")]
    try:
        ports.control_plane.publish_endpoint(state.id, act.url)
    except ReportRefused as error:
        return [EndpointNotPublished(url=act.url, reason=str(error))]
    return [EndpointPublished(url=act.url)]


PERFORMERS = Performers[Context](
    by(ApplySecrets, _apply_secrets),
    by(ApplyLgp, _apply_lgp),
    by(CheckHealth, _check_health),
    by(CompleteRevision, _complete),
    by(FailRevision, _fail),
    by(PruneSecrets, _prune_secrets),
    by(DeleteLgp, _delete_lgp),
    by(ConfirmDeletion, _confirm_deletion),
    by(DeleteSecrets, _delete_secrets),
    by(ReportStatus, _report),
    by(PublishEndpoint, _publish_endpoint),
)
"""Which function performs the acts of each class."""
