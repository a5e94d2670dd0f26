"""The listener's acts: every touch of the outside world, as values and as the functions that perform them.

Each may run twice, late, or next to its twin. Each returns at least one event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

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
    addressed_to,
    changes_to,
    content_digest,
    display_name,
    parse_deployment,
    secrets_digest,
)
from engine.listener.state import OPEN, DeploymentState
from engine.names import DEPLOYMENT_LABEL, LGP_API_VERSION, LGP_KIND, LISTENER_MANAGER, is_object_name
from engine.ports import Manifest, ObjectKey, Ports
from engine.runtime.machine import Act

REJECTED_FOR_GOOD = frozenset({422})
"""HTTP statuses that condemn the object itself. Everything else (a permission, a quota, a missing namespace or
definition, an admission webhook) can be mended without touching the deployment."""


def perform(act: Act, state: DeploymentState, ports: Ports, config: ListenerConfig) -> Sequence[Event]:
    """Perform `act` for the deployment in `state`; return what happened."""
    return PERFORMERS[act.name](act, state, ports, config)


def _apply_secrets(act: ApplySecrets, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    raw = ports.control_plane.deployment(state.id)
    resource = _wanted(raw, config)
    newer = changes_to(state, resource, content_digest(raw, ports.digest), ports.digest)
    if newer:
        return newer
    values = {secret.name: secret.value for secret in resource.secrets or ()}
    content = secrets_digest(resource, ports.digest)
    name = secret_name(state.lgp, content)
    manifest = secret_manifest(state, config, name, {**values, API_KEY_FIELD: ports.api_key})
    try:
        ports.cluster.apply(manifest, manager=LISTENER_MANAGER, before_write=ports.keep_lock)
    except ObjectRefused as error:
        return _rejected(state, act.revision_id, f"Secret {state.namespace}/{name}", error)
    return [SecretsApplied(revision_id=act.revision_id, secret=name, digest=content)]


def _wanted(raw: dict[str, Any], config: ListenerConfig) -> DeploymentResource:
    """Return the deployment as the control plane wants it now.

    Raises InvalidResource for one that cannot be understood, or is not addressed to us any more.
    """
    if not addressed_to(raw, config.listener_id, config.workspace_id):
        raise InvalidResource(
            display_name(raw),
            "source_config.listener_id",
            f"is not {config.listener_id}, so it is not for this data plane",
        )
    resource = parse_deployment(raw)
    if not isinstance(resource, DeploymentResource):
        # Deletions go through the poll only, and so through its guard.
        raise ControlPlaneUnavailable(f"{display_name(raw)} is being deleted; the next poll sees it")
    return resource


def _apply_lgp(act: ApplyLgp, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    manifest = _manifest(act, state, config)
    try:
        live, adopted = _inspect(state, manifest.get("spec"), ports)
        if adopted is not None:
            return [adopted]
        applied = ports.cluster.apply(manifest, manager=LISTENER_MANAGER, before_write=ports.keep_lock, seen=live)
    except ObjectRefused as error:
        return _rejected(state, act.revision_id, f"LGP {state.namespace}/{state.lgp}", error)
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


def _inspect(
    state: DeploymentState, spec: dict[str, Any] | None, ports: Ports
) -> tuple[Manifest | EllipsisType | None, LgpAdopted | None]:
    """Look at the LGP where another listener may have written it; return what was read, and what there is to note.

    Before a `spec` is applied (None: it is left as it is), what others set in fields that our listener writes, and
    nobody asks for any more, goes.
    """
    if state.revision is None or (state.adopted is None and state.applied is not None):
        return ..., None
    live = ports.cluster.get(adoption.key_of(state))
    if state.adopted is None:
        if live is None and adoption.is_called_otherwise(state):
            live = _called_otherwise(state, ports)
        foreign = live is not None and adoption.is_foreign(live)
        return live, adoption.adopt(live, state.revision, ports) if live is not None and foreign else None
    if spec is None:
        if live is not None and adoption.is_still(live, state.adopted.spec_digest, ports):
            return live, None
        return live, adoption.disowned(state, live)
    left = adoption.without_others(leftovers(live, LISTENER_MANAGER, spec)) if live is not None else {}
    if live is None or not left:
        return live, None
    patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "spec": left}
    ports.cluster.patch(adoption.key_of(state), patch, before_write=ports.keep_lock)
    return ..., None


def _called_otherwise(state: DeploymentState, ports: Ports) -> Manifest | None:
    """Return the LGP of a deployment that another listener gave another name than ours, if there is one."""
    full = adoption.full_name(state)
    live = ports.cluster.get(adoption.key_of(state, full)) if is_object_name(full) else None
    selectors = (f"{DEPLOYMENT_LABEL}={state.id}", f"!{DEPLOYMENT_LABEL}")
    for labels in selectors if live is None else ():
        found = ports.cluster.list(LGP_API_VERSION, LGP_KIND, state.namespace, labels=labels)
        live = live or adoption.of_deployment(state, found)
    return live


def _manifest(act: ApplyLgp, state: DeploymentState, config: ListenerConfig) -> Manifest:
    """Return the manifest that `act` means: the current revision's, or that of one before."""
    for manifest in (placed_manifest(state, config), predecessor_manifest(state, config)):
        if manifest is not None and plain_digest(manifest) == act.manifest_digest:
            return manifest
    return desired_manifest(state, config)


def _rejected(state: DeploymentState, revision_id: str, rejected: str, error: ObjectRefused) -> list[Event]:
    """Return what a rejected object leaves: the end of an open revision if the object itself is at fault."""
    found: list[Event] = [LgpRejected(revision_id=revision_id, object=rejected, message=str(error))]
    revision = state.revision
    is_open = revision is not None and revision.id == revision_id and revision.phase in OPEN
    if is_open and error.status in REJECTED_FOR_GOOD:
        message = f"{rejected}: {error}"
        found.append(RevisionFailed(revision_id=revision_id, reason="ObjectRejected", message=message))
    return found


def _check_health(act: CheckHealth, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    health = ports.health.check(act.url)
    return [
        HealthChecked(revision_id=act.revision_id, ok=health.ok, url=act.url, detail=health.detail, attempt=act.attempt)
    ]


def _complete(act: CompleteRevision, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    return [RevisionDeployed(revision_id=act.revision_id)]


def _fail(act: FailRevision, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    return [RevisionFailed(revision_id=act.revision_id, reason=act.reason, message=act.message)]


def _prune_secrets(act: PruneSecrets, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    secrets = ports.cluster.list("v1", "Secret", state.namespace, labels=deployment_selector(state.id))
    stale = sorted(s["metadata"]["name"] for s in secrets if s["metadata"]["name"] != act.keep)
    for name in stale:
        ports.keep_lock()
        ports.cluster.delete(ObjectKey(api_version="v1", kind="Secret", namespace=state.namespace, name=name))
    return [SecretsPruned(kept=act.keep, deleted=tuple(stale))]


def _lgp_key(state: DeploymentState) -> ObjectKey:
    return ObjectKey(api_version=LGP_API_VERSION, kind=LGP_KIND, namespace=state.namespace, name=state.lgp)


def _delete_lgp(act: DeleteLgp, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    ports.keep_lock()
    existed = ports.cluster.delete(_lgp_key(state), propagation="Foreground")
    return [DeletionStarted(existed=existed)]


def _confirm_deletion(
    act: ConfirmDeletion, state: DeploymentState, ports: Ports, config: ListenerConfig
) -> list[Event]:
    lgp = ports.cluster.get(_lgp_key(state))
    if lgp is None:
        return [LgpGone()]
    return [DeletionPending(finalizers=tuple(lgp["metadata"].get("finalizers", ())))]


def _delete_secrets(act: DeleteSecrets, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
    ports.keep_lock()
    ports.cluster.delete_all("v1", "Secret", state.namespace, labels=deployment_selector(state.id))
    return [DeploymentDeleted()]


def _report(act: ReportStatus, state: DeploymentState, ports: Ports, config: ListenerConfig) -> list[Event]:
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


def _publish_endpoint(
    act: PublishEndpoint, state: DeploymentState, ports: Ports, config: ListenerConfig
) -> list[Event]:
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
    "PublishEndpoint": _publish_endpoint,
}
