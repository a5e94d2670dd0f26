"""The state machine of a deployment, as the listener sees it. Everything that changes it lives in this file.

Theory of operation. A deployment has at most one *current* revision. Its phase moves by the table `TRANSITIONS` and
never backwards: QUEUED until its Secret is in the cluster, AWAITING_DEPLOY until its LGP is, DEPLOYING until the
rollout is available and healthy. DEPLOYED and DEPLOY_FAILED are final. A newer revision closes one that was not final:
SKIPPED if nothing of it rolled out yet, INTERRUPTED if it did. Closed revisions are remembered until the control plane
was told.

`serving` is the revision that was deployed last. It keeps serving while its successor rolls out, because its pods and
its Secret stay until a successor is deployed. When the successor fails, the LGP is put back to the *predecessor*, the
revision that was deployed last before it: what failed goes, and whatever is made anew is what served. Where none was
deployed before it, what failed may be *stopped*: the LGP goes on, with its database, and asks for no pods.

The deployment itself moves from AWAITING_DATABASE to READY when its database is there, to AWAITING_DELETE when the
control plane says so, and to DELETED when nothing that we made is left.

Reports to the control plane run beside all that: what was reported last is kept per revision and for the deployment,
and `decide` asks for a report wherever it differs from what is true now.

An act that failed is *deferred* to a time: a passing failure to the one that its event names, a refusal (the API
server rejects the object, the key has no permission) for a time that doubles up to an hour, since a person may mend it
without touching the deployment. New input lifts every deferral.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.event import Event
from engine.kubernetes.fingerprint import Fingerprint
from engine.kubernetes.repairs import CALM, repair_delay
from engine.listener.events import (
    DeletionPending,
    DeletionRequested,
    DeletionStarted,
    DeploymentDeleted,
    DeploymentRegistered,
    DriftDetected,
    EndpointNotPublished,
    EndpointPublished,
    HealthChecked,
    LgpAdopted,
    LgpApplied,
    LgpGone,
    LgpRejected,
    Paused,
    Resumed,
    RevisionDeployed,
    RevisionFailed,
    RevisionRequested,
    RevisionSuperseded,
    RolloutObserved,
    SecretReference,
    SecretsApplied,
    SecretsPruned,
    StatusReported,
    StatusReportRejected,
)
from engine.runtime.machine import State
from engine.runtime.retry import ActDeferred, ActRefused, refused_delay


class Phase(StrEnum):
    """Life of a revision; the values are the control plane's status names."""

    QUEUED = "QUEUED"
    """Asked for."""
    AWAITING_DEPLOY = "AWAITING_DEPLOY"
    """Its Secret is in the cluster."""
    DEPLOYING = "DEPLOYING"
    """Its LGP is in the cluster and rolls out."""
    DEPLOYED = "DEPLOYED"
    """It serves."""
    DEPLOY_FAILED = "DEPLOY_FAILED"
    """It was given up; the reason says why."""
    SKIPPED = "SKIPPED"
    """A newer one came before anything of it rolled out."""
    INTERRUPTED = "INTERRUPTED"
    """A newer one came while it rolled out."""


class Status(StrEnum):
    """Life of a deployment; the values are the control plane's status names, DELETED is ours."""

    AWAITING_DATABASE = "AWAITING_DATABASE"
    READY = "READY"
    AWAITING_DELETE = "AWAITING_DELETE"
    DELETED = "DELETED"


TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    (Phase.QUEUED, "SecretsApplied"): Phase.AWAITING_DEPLOY,
    (Phase.QUEUED, "RevisionFailed"): Phase.DEPLOY_FAILED,
    (Phase.QUEUED, "RevisionSuperseded"): Phase.SKIPPED,
    (Phase.AWAITING_DEPLOY, "LgpApplied"): Phase.DEPLOYING,
    (Phase.AWAITING_DEPLOY, "RevisionFailed"): Phase.DEPLOY_FAILED,
    (Phase.AWAITING_DEPLOY, "RevisionSuperseded"): Phase.SKIPPED,
    (Phase.DEPLOYING, "RevisionDeployed"): Phase.DEPLOYED,
    (Phase.DEPLOYING, "RevisionFailed"): Phase.DEPLOY_FAILED,
    (Phase.DEPLOYING, "RevisionSuperseded"): Phase.INTERRUPTED,
}
"""Every change of phase. An event that is not here leaves the phase alone."""

DEPLOYMENT_TRANSITIONS: dict[tuple[Status, str], Status] = {
    (Status.AWAITING_DATABASE, "RolloutObserved"): Status.READY,
    (Status.AWAITING_DATABASE, "DeletionRequested"): Status.AWAITING_DELETE,
    (Status.READY, "DeletionRequested"): Status.AWAITING_DELETE,
    (Status.AWAITING_DELETE, "DeploymentDeleted"): Status.DELETED,
}
"""Every change of the deployment's status; RolloutObserved counts once the database is ready."""

OPEN = frozenset({Phase.QUEUED, Phase.AWAITING_DEPLOY, Phase.DEPLOYING})
"""Phases that are not final."""
FINAL = frozenset(Phase) - OPEN


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Revision(Value):
    """The current revision."""

    id: str
    image: str
    resource_spec: dict[str, Any]
    secret_names: tuple[str, ...]
    secrets_digest: str
    secret_references: tuple[SecretReference, ...]
    phase: Phase = Phase.QUEUED
    since: datetime
    """When it entered its phase."""
    secret: str = ""
    """Name of its Secret."""
    reason: str = ""
    message: str = ""
    lgp_generation: int = 0
    """Generation of the LGP that carries it, 0 before."""


class Closed(Value):
    """A revision that ended and of which the control plane was not told yet."""

    id: str
    status: Phase
    reason: str = ""


class Rollout(Value):
    """What the LGP's status said last."""

    generation: int
    available: bool
    progressing: bool
    failing_since: datetime | None
    reason: str
    message: str
    ready: int
    replicas: int
    warning: str = ""


class Health(Value):
    """Health checks of the current revision."""

    ok: bool
    attempts: int
    first: datetime
    last: datetime
    detail: str


class AppliedLgp(Value):
    """The LGP as we applied it last."""

    revision_id: str
    manifest_digest: str
    fingerprint: Fingerprint
    at: datetime | None = None
    revision: Revision | None = None
    """What it was made from: a successor that fails before its own LGP does not keep this one from being repaired."""
    stopped: bool = False
    """It asks for no pods."""


class AdoptedLgp(Value):
    """An LGP that another listener wrote, as far as it is kept."""

    held: str = ""
    """Revision for which its spec is left as it is; empty: for none."""
    spec_digest: str = ""
    """Keyed, of that spec."""
    database: dict[str, Any] = {}
    """Fields of `spec.database` that lead to its data."""


class DeploymentState(State):
    """What is known of one deployment."""

    id: str = ""
    name: str = ""
    workspace_id: str = ""
    listener_id: str = ""
    """Whose it is; empty when it was registered by an older version."""
    namespace: str = ""
    lgp: str = ""
    registered_at: datetime | None = None
    status: Status = Status.AWAITING_DATABASE
    content_digest: str = ""
    revision: Revision | None = None
    predecessor: Revision | None = None
    """The revision that was deployed last before the current one, as it was then."""
    serving: str | None = None
    """Id of the revision deployed last."""
    closed: tuple[Closed, ...] = ()
    adopted: AdoptedLgp | None = None
    """None: no other listener's."""
    made: bool = False
    """The LGP was made by this log: behind it are pods of no revision that this log does not know."""
    applied: AppliedLgp | None = None
    drifted: bool = False
    """The LGP is not as applied; of a deleted deployment: it is there."""
    repairs: int = 0
    """Drifts of the LGP in a row, each soon after our apply."""
    repair_at: datetime | None = None
    """When its drift may be mended: at once, unless somebody keeps undoing it."""
    secret_drifted: bool = False
    """The current revision's Secret is gone; of a deleted deployment: it is there."""
    rollout: Rollout | None = None
    health: Health | None = None
    pruned_for: str = ""
    """Name of the Secret that was kept by the last pruning."""
    deletion_reason: str = ""
    deletion_started: datetime | None = None
    deletion_checked: datetime | None = None
    deletion_checks: int = 0
    lgp_gone: bool = False
    reported: dict[str, str] = {}
    """What the control plane was told last: revision id, or `deployment`, → status."""
    reports_unsupported: bool = False
    endpoint: str = ""
    """URL that the control plane shows by our doing."""
    endpoint_tried: str = ""
    """URL that was published last, or found not to be welcome."""
    deferred: dict[str, datetime] = {}
    """Act → when to try it again."""
    refused: dict[str, str] = {}
    """Deferred act → why, if it was refused."""
    refusals: dict[str, int] = {}
    """Refused act → how often in a row."""
    rejection: str = ""
    """Why the API server does not take the LGP or its Secret."""
    paused: bool = False

    @property
    def deleted(self) -> bool:
        return self.status is Status.DELETED

    @property
    def last_reason(self) -> str:
        """Why things are as they are, for a person; empty when all is well."""
        if self.refused:
            return "; ".join(f"{act}: {reason}" for act, reason in self.refused.items())
        if self.revision is not None and self.revision.reason:
            return f"{self.revision.reason}: {self.revision.message}"
        return self.deletion_reason


def evolve(state: DeploymentState, event: Event, at: datetime) -> DeploymentState:
    """Fold one event that happened `at` (UTC)."""
    if isinstance(event, RevisionRequested) and event.based_on not in (None, state.content_digest):
        return state
    state = _update_retries(state, event, at)
    state = _move(state, event, at)
    handler = HANDLERS.get(event.type)
    return handler(state, event, at) if handler else state


def _update_retries(state: DeploymentState, event: Event, at: datetime) -> DeploymentState:
    """An act that worked is no longer deferred; new input gives every act another chance."""
    match event:
        case ActDeferred(act=act, retry_at=retry_at):
            return _defer(_release(state, act), act, retry_at)
        case ActRefused(act=act, reason=reason):
            return _refuse(state, act, reason, at)
        case LgpRejected():
            act = "ApplySecrets" if event.object.startswith(SECRET) else "ApplyLgp"
            reason = f"{event.object}: {event.message}"
            return _refuse(state, act, reason, at).model_copy(update={"rejection": reason})
        case RevisionRequested() | DeletionRequested() | Resumed():
            return state.model_copy(update={"deferred": {}, "refused": {}, "refusals": {}, "rejection": ""})
    act = SUCCESS_OF.get(event.type, "")
    if event.type in ("SecretsApplied", "LgpApplied") and state.rejection:
        state = state.model_copy(update={"rejection": ""})
    return _release(state, act) if act in state.deferred else state


def _defer(state: DeploymentState, act: str, until: datetime) -> DeploymentState:
    return state.model_copy(update={"deferred": {**state.deferred, act: until}})


def _refuse(state: DeploymentState, act: str, reason: str, at: datetime) -> DeploymentState:
    attempts = state.refusals.get(act, 0) + 1
    refused = {
        "refused": {**state.refused, act: reason},
        "refusals": {**state.refusals, act: attempts},
    }
    return _defer(state.model_copy(update=refused), act, at + refused_delay(attempts))


def _release(state: DeploymentState, act: str) -> DeploymentState:
    held: dict[str, dict[str, Any]] = {
        "deferred": state.deferred,
        "refused": state.refused,
        "refusals": state.refusals,
    }
    return state.model_copy(
        update={field: {name: v for name, v in entries.items() if name != act} for field, entries in held.items()}
    )


SECRET = "Secret "
"""What the name of a Secret in an event starts with."""

SUCCESS_OF = {
    "SecretsApplied": "ApplySecrets",
    "LgpAdopted": "ApplyLgp",
    "LgpApplied": "ApplyLgp",
    "StatusReported": "ReportStatus",
    "StatusReportRejected": "ReportStatus",
    "SecretsPruned": "PruneSecrets",
    "DeletionStarted": "DeleteLgp",
    "DeletionPending": "ConfirmDeletion",
    "LgpGone": "ConfirmDeletion",
    "DeploymentDeleted": "DeleteSecrets",
    "EndpointPublished": "PublishEndpoint",
    "EndpointNotPublished": "PublishEndpoint",
}
"""Which act an event shows to have worked."""


def _move(state: DeploymentState, event: Event, at: datetime) -> DeploymentState:
    """Apply the two transition tables."""
    revision = state.revision
    if revision is not None and getattr(event, "revision_id", revision.id) == revision.id:
        phase = TRANSITIONS.get((revision.phase, event.type))
        if phase is not None:
            state = state.model_copy(update={"revision": revision.model_copy(update={"phase": phase, "since": at})})
    if event.type == "RolloutObserved" and not getattr(event, "database_ready", False):
        return state
    status = DEPLOYMENT_TRANSITIONS.get((state.status, event.type))
    return state if status is None else state.model_copy(update={"status": status})


def _registered(state: DeploymentState, event: DeploymentRegistered, at: datetime) -> DeploymentState:
    # A deployment that was deleted and is there again (restored on the control plane) starts anew, but for what the
    # control plane was told of its revisions: that never goes backwards.
    told = {subject: status for subject, status in state.reported.items() if subject != "deployment"}
    fresh = DeploymentState(reported=told) if state.deleted else state
    return fresh.model_copy(
        update={
            "id": event.deployment_id,
            "name": event.name,
            "workspace_id": event.workspace_id,
            "listener_id": event.listener_id,
            "namespace": event.namespace,
            "lgp": event.lgp if fresh.adopted is None else fresh.lgp,
            "registered_at": fresh.registered_at or at,
        }
    )


def _requested(state: DeploymentState, event: RevisionRequested, at: datetime) -> DeploymentState:
    revision = Revision(
        id=event.revision_id,
        image=event.image,
        resource_spec=event.resource_spec,
        secret_names=event.secret_names,
        secrets_digest=event.secrets_digest,
        secret_references=event.secret_references,
        since=at,
    )
    before = state.revision
    deployed = before is not None and before.phase is Phase.DEPLOYED
    return state.model_copy(
        update={
            "revision": revision,
            "predecessor": before if deployed else state.predecessor,
            "content_digest": event.content_digest,
            "health": None,
            "pruned_for": "",
            "reports_unsupported": False,
        }
    )


def _superseded(state: DeploymentState, event: RevisionSuperseded, at: datetime) -> DeploymentState:
    revision = state.revision
    if revision is None or revision.id != event.revision_id:
        return state
    if state.reported.get(revision.id) in FINAL:
        return state  # other content of a revision that had ended before: what was told stays true of it
    closed = Closed(id=revision.id, status=revision.phase, reason=f"superseded by {event.by}")
    return state.model_copy(update={"closed": (*state.closed, closed)})


def _deletion_requested(state: DeploymentState, event: DeletionRequested, at: datetime) -> DeploymentState:
    return state.model_copy(update={"deletion_reason": event.reason})


def _revise(state: DeploymentState, revision_id: str, **changes: Any) -> DeploymentState:
    if state.revision is None or state.revision.id != revision_id:
        return state
    return state.model_copy(update={"revision": state.revision.model_copy(update=changes)})


def _secrets_applied(state: DeploymentState, event: SecretsApplied, at: datetime) -> DeploymentState:
    return _revise(state.model_copy(update={"secret_drifted": False}), event.revision_id, secret=event.secret)


def _adopted(state: DeploymentState, event: LgpAdopted, at: datetime) -> DeploymentState:
    held = event.revision_id if event.spec_digest else ""
    adopted = AdoptedLgp(held=held, spec_digest=event.spec_digest, database=event.database)
    return state.model_copy(update={"adopted": adopted, "lgp": event.lgp, "made": False})


def _lgp_applied(state: DeploymentState, event: LgpApplied, at: datetime) -> DeploymentState:
    before, revision, live = state.applied, state.revision, event.fingerprint
    # While the current revision has no LGP yet, an apply repaired the one before it.
    current = revision is not None and revision.id == event.revision_id and _has_lgp(revision) and not event.restored
    kept = before.revision if before is not None and before.revision_id == event.revision_id else None
    if event.restored:
        kept = state.predecessor
    applied = AppliedLgp(
        revision_id=event.revision_id,
        manifest_digest=event.manifest_digest,
        fingerprint=live,
        at=at,
        revision=revision if current else kept,
        stopped=event.stopped,
    )
    made = event.created or state.made
    state = state.model_copy(update={"applied": applied, "made": made, "drifted": False, "lgp_gone": False})
    if state.adopted is not None and state.adopted.held not in ("", event.revision_id):
        state = state.model_copy(update={"adopted": AdoptedLgp(database=state.adopted.database)})
    if event.created or (before is not None and before.fingerprint.uid != live.uid):
        # What was observed before speaks of another object, whose generations count for nothing.
        state = state.model_copy(update={"rollout": None})
    if not current or revision is None:
        return state
    if live.generation != revision.lgp_generation:
        state = state.model_copy(update={"health": None})
    # A rollout observed before this apply speaks of it all the same if the apply changed nothing.
    return _revise(state, event.revision_id, lgp_generation=live.generation)


def _has_lgp(revision: Revision) -> bool:
    return revision.phase in (Phase.DEPLOYING, Phase.DEPLOYED) or revision.lgp_generation > 0


def _rollout_observed(state: DeploymentState, event: RolloutObserved, at: datetime) -> DeploymentState:
    rollout = Rollout(
        generation=event.generation,
        available=event.available,
        progressing=event.progressing,
        failing_since=event.failing_since,
        reason=event.reason,
        message=event.message,
        ready=event.ready,
        replicas=event.replicas,
        warning=event.warning,
    )
    # What was available and is so no longer has its health checks before it again, with a deadline of their own.
    return state.model_copy(update={"rollout": rollout, "health": state.health if event.available else None})


def _health_checked(state: DeploymentState, event: HealthChecked, at: datetime) -> DeploymentState:
    if state.revision is None or state.revision.id != event.revision_id:
        return state
    first = state.health.first if state.health else at
    health = Health(ok=event.ok, attempts=event.attempt, first=first, last=at, detail=event.detail)
    return state.model_copy(update={"health": health})


def _deployed(state: DeploymentState, event: RevisionDeployed, at: datetime) -> DeploymentState:
    return state.model_copy(update={"serving": event.revision_id})


def _failed(state: DeploymentState, event: RevisionFailed, at: datetime) -> DeploymentState:
    return _revise(state, event.revision_id, reason=event.reason, message=event.message)


def _pruned(state: DeploymentState, event: SecretsPruned, at: datetime) -> DeploymentState:
    return state.model_copy(update={"pruned_for": event.kept})


def _drifted(state: DeploymentState, event: DriftDetected, at: datetime) -> DeploymentState:
    if state.deleted:
        # Left behind by a worker that slept through its lock: everything is deleted once more.
        return state.model_copy(update={"drifted": True, "secret_drifted": True})
    if event.object.startswith(SECRET):
        return state.model_copy(update={"secret_drifted": True})
    return _lgp_drifted(state, at)


def _lgp_drifted(state: DeploymentState, at: datetime) -> DeploymentState:
    applied = state.applied.at if state.applied is not None else None
    repairs = state.repairs + 1 if applied is not None and at - applied < CALM else 1
    return state.model_copy(update={"drifted": True, "repairs": repairs, "repair_at": at + repair_delay(repairs)})


def _lgp_gone(state: DeploymentState, event: LgpGone, at: datetime) -> DeploymentState:
    if not state.deletion_reason:
        # Somebody else deleted it: that is drift.
        return _lgp_drifted(state, at).model_copy(update={"rollout": None})
    return state.model_copy(update={"lgp_gone": True})


def _deletion_started(state: DeploymentState, event: DeletionStarted, at: datetime) -> DeploymentState:
    return state.model_copy(
        update={
            "deletion_started": at,
            "deletion_checked": at,
            "drifted": False,
            "lgp_gone": not event.existed or state.lgp_gone,
        }
    )


def _deletion_pending(state: DeploymentState, event: DeletionPending, at: datetime) -> DeploymentState:
    return state.model_copy(update={"deletion_checked": at, "deletion_checks": state.deletion_checks + 1})


def _deployment_deleted(state: DeploymentState, event: DeploymentDeleted, at: datetime) -> DeploymentState:
    return state.model_copy(update={"secret_drifted": False})


def _reported(state: DeploymentState, event: StatusReported | StatusReportRejected, at: datetime) -> DeploymentState:
    key = "deployment" if event.subject == "deployment" else event.id
    closed = tuple(c for c in state.closed if c.id != event.id)
    kept = {c.id for c in closed} | {"deployment", state.revision.id if state.revision else ""}
    reported = {k: v for k, v in {**state.reported, key: event.status}.items() if k in kept or k == key}
    unsupported = isinstance(event, StatusReportRejected) and event.unsupported
    return state.model_copy(
        update={
            "reported": reported,
            "closed": closed,
            "reports_unsupported": state.reports_unsupported or unsupported,
        }
    )


def _published(state: DeploymentState, event: EndpointPublished, at: datetime) -> DeploymentState:
    return state.model_copy(update={"endpoint": event.url, "endpoint_tried": event.url})


def _not_published(state: DeploymentState, event: EndpointNotPublished, at: datetime) -> DeploymentState:
    return state.model_copy(update={"endpoint_tried": event.url})


def _paused(state: DeploymentState, event: Paused, at: datetime) -> DeploymentState:
    return state.model_copy(update={"paused": True})


def _resumed(state: DeploymentState, event: Resumed, at: datetime) -> DeploymentState:
    return state.model_copy(update={"paused": False})


Handler = Callable[[DeploymentState, Any, datetime], DeploymentState]

HANDLERS: dict[str, Handler] = {
    "DeploymentRegistered": _registered,
    "RevisionRequested": _requested,
    "RevisionSuperseded": _superseded,
    "DeletionRequested": _deletion_requested,
    "SecretsApplied": _secrets_applied,
    "LgpAdopted": _adopted,
    "LgpApplied": _lgp_applied,
    "RolloutObserved": _rollout_observed,
    "HealthChecked": _health_checked,
    "RevisionDeployed": _deployed,
    "RevisionFailed": _failed,
    "SecretsPruned": _pruned,
    "DriftDetected": _drifted,
    "LgpGone": _lgp_gone,
    "DeletionStarted": _deletion_started,
    "DeletionPending": _deletion_pending,
    "DeploymentDeleted": _deployment_deleted,
    "StatusReported": _reported,
    "StatusReportRejected": _reported,
    "EndpointPublished": _published,
    "EndpointNotPublished": _not_published,
    "Paused": _paused,
    "Resumed": _resumed,
}
