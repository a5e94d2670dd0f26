"""The state machine of a deployment, as the listener sees it. Everything that changes the state is in this file.

Theory of operation. A deployment has at most one *current* revision. Its phase moves by the table `TRANSITIONS` and
never backwards: QUEUED until its Secret is in the cluster, AWAITING_DEPLOY until its LGP is in the cluster, DEPLOYING
until the rollout is available and healthy. DEPLOYED and DEPLOY_FAILED are final. A newer revision closes an open one:
the open one becomes SKIPPED if nothing of it rolled out yet, INTERRUPTED otherwise. A closed revision is remembered
until its status is reported to the control plane.

`serving` is the revision that was deployed last. It keeps serving while its successor rolls out, because its pods and
its Secret stay until a successor is deployed. When the successor fails, the LGP is put back to the *predecessor*, the
revision that was deployed last before the successor: the failed pods go, and every new pod is one of the predecessor's.
Where no revision was deployed before, the failed revision may be *stopped*: the LGP and its database stay, and the LGP
asks for no pods.

The deployment itself moves from AWAITING_DATABASE to READY when its database is ready, to AWAITING_DELETE when the
control plane asks for its deletion, and to DELETED when nothing that the listener made is left.

Reports to the control plane run beside all that. The state keeps the status that was reported last, for each revision
and for the deployment. `decide` asks for a report wherever the current status differs from the reported one.

An act that failed is *deferred* (engine/runtime/deferral.py). New input (a revision, a deletion, `agentplane resume`)
ends every deferral.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from engine.event import Event, JsonObject
from engine.kubernetes.fingerprint import Fingerprint
from engine.kubernetes.repairs import CALM, repair_delay
from engine.listener.acts import (
    ApplyLgp,
    ApplySecrets,
    ConfirmDeletion,
    DeleteLgp,
    DeleteSecrets,
    PruneSecrets,
    PublishEndpoint,
    ReportStatus,
)
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
    RevisionEvent,
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
from engine.runtime.backoff import ActDeferred, ActRefused
from engine.runtime.deferral import NONE, Deferrals, Ends
from engine.runtime.dispatch import Handlers, Transitions, When, on
from engine.runtime.values import Value, replace


class Phase(StrEnum):
    """Life of a revision; the values are the control plane's status names."""

    QUEUED = "QUEUED"
    """The control plane asked for it."""
    AWAITING_DEPLOY = "AWAITING_DEPLOY"
    """Its Secret is in the cluster."""
    DEPLOYING = "DEPLOYING"
    """Its LGP is in the cluster and rolls out."""
    DEPLOYED = "DEPLOYED"
    """It serves."""
    DEPLOY_FAILED = "DEPLOY_FAILED"
    """It failed; the reason says why."""
    SKIPPED = "SKIPPED"
    """A newer revision came before anything of this one rolled out."""
    INTERRUPTED = "INTERRUPTED"
    """A newer revision came while this one rolled out."""


class Status(StrEnum):
    """Life of a deployment; the values are the control plane's status names, but for DELETED, which is ours."""

    AWAITING_DATABASE = "AWAITING_DATABASE"
    READY = "READY"
    AWAITING_DELETE = "AWAITING_DELETE"
    DELETED = "DELETED"


TRANSITIONS = Transitions[Phase](
    {
        (Phase.QUEUED, SecretsApplied): Phase.AWAITING_DEPLOY,
        (Phase.QUEUED, RevisionFailed): Phase.DEPLOY_FAILED,
        (Phase.QUEUED, RevisionSuperseded): Phase.SKIPPED,
        (Phase.AWAITING_DEPLOY, LgpApplied): Phase.DEPLOYING,
        (Phase.AWAITING_DEPLOY, RevisionFailed): Phase.DEPLOY_FAILED,
        (Phase.AWAITING_DEPLOY, RevisionSuperseded): Phase.SKIPPED,
        (Phase.DEPLOYING, RevisionDeployed): Phase.DEPLOYED,
        (Phase.DEPLOYING, RevisionFailed): Phase.DEPLOY_FAILED,
        (Phase.DEPLOYING, RevisionSuperseded): Phase.INTERRUPTED,
    }
)
"""Every change of a revision's phase."""

DATABASE_READY = When(RolloutObserved, "database ready", lambda event: event.database_ready)

DEPLOYMENT_TRANSITIONS = Transitions[Status](
    {
        (Status.AWAITING_DATABASE, DATABASE_READY): Status.READY,
        (Status.AWAITING_DATABASE, DeletionRequested): Status.AWAITING_DELETE,
        (Status.READY, DeletionRequested): Status.AWAITING_DELETE,
        (Status.AWAITING_DELETE, DeploymentDeleted): Status.DELETED,
    }
)
"""Every change of a deployment's status."""

OPEN = frozenset({Phase.QUEUED, Phase.AWAITING_DEPLOY, Phase.DEPLOYING})
"""Phases that are not final."""
FINAL = frozenset(Phase) - OPEN


@dataclass(frozen=True, kw_only=True)
class Registration(Value):
    """The deployment as the control plane registered it with a listener."""

    id: str = ""
    """Of the deployment; empty before it is registered."""
    name: str = ""
    workspace_id: str = ""
    listener_id: str = ""
    """Listener that the deployment is for; empty when an older version registered it."""
    namespace: str = ""
    at: datetime | None = None
    """When it was registered (UTC)."""


@dataclass(frozen=True, kw_only=True)
class Revision(Value):
    """A revision that the control plane asked for."""

    id: str
    image: str
    resource_spec: JsonObject
    secret_names: tuple[str, ...]
    secrets_digest: str
    secret_references: tuple[SecretReference, ...]
    phase: Phase = Phase.QUEUED
    since: datetime
    """When it entered its phase (UTC)."""
    secret: str = ""
    """Name of its Secret; empty before it is applied."""
    reason: str = ""
    """Why it failed, one word."""
    message: str = ""
    lgp_generation: int = 0
    """Generation of the LGP that carries it; 0 before the LGP is applied."""


@dataclass(frozen=True, kw_only=True)
class Closed(Value):
    """A revision that a newer one closed, and whose status is not reported yet."""

    id: str
    status: Phase
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Revisions(Value):
    """The revisions of the deployment that still matter."""

    current: Revision | None = None
    """The revision that the control plane asked for last."""
    predecessor: Revision | None = None
    """The revision that was deployed last before the current one, as it was then."""
    serving: str | None = None
    """Id of the revision that was deployed last."""
    closed: tuple[Closed, ...] = ()
    content_digest: str = ""
    """Keyed digest of the resource from which the current revision was read."""


@dataclass(frozen=True, kw_only=True)
class AppliedLgp(Value):
    """The LGP as the listener applied it last."""

    revision_id: str
    manifest_digest: str
    fingerprint: Fingerprint
    at: datetime | None = None
    """When it was applied (UTC)."""
    revision: Revision | None = None
    """The revision that it was made from: this LGP is repaired even when a successor fails before its own LGP."""
    stopped: bool = False
    """It asks for no pods."""


@dataclass(frozen=True, kw_only=True)
class AdoptedLgp(Value):
    """What is kept of an LGP that another listener wrote."""

    untouched_for: str = ""
    """Id of the revision for which its spec stays as the other listener wrote it; empty: for none."""
    spec_digest: str = ""
    """Keyed digest of that spec."""
    database: JsonObject = field(default_factory=dict)
    """Fields of `spec.database` that lead to its data."""


@dataclass(frozen=True, kw_only=True)
class Lgp(Value):
    """The deployment's LGP."""

    name: str = ""
    adopted: AdoptedLgp | None = None
    """None: no other listener wrote it."""
    made: bool = False
    """This log made it, so that it has no pods of a revision that this log does not know."""
    applied: AppliedLgp | None = None
    """None: the listener has not applied it yet."""
    drifted: bool = False
    """It is not as it was applied. Of a deleted deployment: it exists."""
    repairs: int = 0
    """Drifts in a row, each soon after an apply."""
    repair_at: datetime | None = None
    """When its drift may be repaired (UTC): at once, or later when another writer keeps undoing the repair."""


@dataclass(frozen=True, kw_only=True)
class Secrets(Value):
    """The Secrets of the deployment's revisions."""

    drifted: bool = False
    """The current revision's Secret does not exist. Of a deleted deployment: a Secret exists."""
    pruned_for: str = ""
    """Name of the Secret that the last pruning kept."""


@dataclass(frozen=True, kw_only=True)
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

    @classmethod
    def of(cls, event: RolloutObserved) -> Rollout:
        """Return what `event` says of the rollout."""
        return cls(
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


@dataclass(frozen=True, kw_only=True)
class Health(Value):
    """Health checks of the current revision."""

    ok: bool
    """Whether the last check succeeded."""
    attempts: int
    first: datetime
    """When the first check was made (UTC)."""
    last: datetime
    detail: str
    """What the last check found, for a person."""


@dataclass(frozen=True, kw_only=True)
class Deletion(Value):
    """A deletion that was asked for. It cannot be taken back."""

    reason: str
    started: datetime | None = None
    """When the LGP was deleted (UTC); its finalizers and its objects may keep it for a while."""
    checked: datetime | None = None
    """When the listener last checked whether the LGP still exists (UTC)."""
    checks: int = 0
    """Checks that found the LGP."""
    finalizers: tuple[str, ...] = ()
    """Finalizers that the last of those checks found on the LGP."""
    lgp_gone: bool = False
    """The LGP does not exist any more."""


@dataclass(frozen=True, kw_only=True)
class Reports(Value):
    """What was reported to the control plane."""

    statuses: dict[str, str] = field(default_factory=dict)
    """Revision id, or DEPLOYMENT → the status that was reported last."""
    unsupported: bool = False
    """The control plane takes no reports."""


DEPLOYMENT = "deployment"
"""The deployment itself among the subjects of reports."""


@dataclass(frozen=True, kw_only=True)
class Endpoint(Value):
    """The URL of the Agent Server on the control plane."""

    published: str = ""
    """URL that the control plane shows because the listener published it."""
    tried: str = ""
    """URL that the listener published last, or that the control plane did not take."""


@dataclass(frozen=True, kw_only=True)
class DeploymentState(Value):
    """What is known of one deployment."""

    registration: Registration = Registration()
    status: Status = Status.AWAITING_DATABASE
    revisions: Revisions = Revisions()
    lgp: Lgp = Lgp()
    secrets: Secrets = Secrets()
    rollout: Rollout | None = None
    health: Health | None = None
    deletion: Deletion | None = None
    """None: no deletion was asked for."""
    reports: Reports = Reports()
    endpoint: Endpoint = Endpoint()
    deferrals: Deferrals = NONE
    rejection: str = ""
    """Why the API server rejects the LGP or its Secret; empty when it does not."""
    paused: bool = False

    @property
    def id(self) -> str:
        return self.registration.id

    @property
    def namespace(self) -> str:
        return self.registration.namespace

    @property
    def revision(self) -> Revision | None:
        """The current revision."""
        return self.revisions.current

    @property
    def deleted(self) -> bool:
        return self.status is Status.DELETED

    @property
    def last_reason(self) -> str:
        """Why the deployment is as it is, for a person; empty when nothing is wrong."""
        refused = [f"{act}: {deferral.reason}" for act, deferral in self.deferrals.refused()]
        if refused:
            return "; ".join(refused)
        if self.revision is not None and self.revision.reason:
            return f"{self.revision.reason}: {self.revision.message}"
        return self.deletion.reason if self.deletion is not None else ""


def evolve(state: DeploymentState, event: Event, at: datetime) -> DeploymentState:
    """Return the state after `event`, which happened `at` (UTC)."""
    if isinstance(event, RevisionRequested) and event.based_on not in (None, state.revisions.content_digest):
        return state
    state = _end_deferrals(state, event)
    state = _move(state, event, at)
    return HANDLERS.apply(state, event, at)


# --- deferrals


ENDS: Ends = {
    SecretsApplied: ApplySecrets,
    LgpAdopted: ApplyLgp,
    LgpApplied: ApplyLgp,
    StatusReported: ReportStatus,
    StatusReportRejected: ReportStatus,
    SecretsPruned: PruneSecrets,
    DeletionStarted: DeleteLgp,
    DeletionPending: ConfirmDeletion,
    LgpGone: ConfirmDeletion,
    DeploymentDeleted: DeleteSecrets,
    EndpointPublished: PublishEndpoint,
    EndpointNotPublished: PublishEndpoint,
}
"""Class of events → the act that such an event shows to have succeeded."""

NEW_INPUT = (RevisionRequested, DeletionRequested, Resumed)
"""Events that end every deferral."""


def _end_deferrals(state: DeploymentState, event: Event) -> DeploymentState:
    if isinstance(event, NEW_INPUT):
        return replace(state, deferrals=NONE, rejection="")
    if state.rejection and isinstance(event, SecretsApplied | LgpApplied):
        state = replace(state, rejection="")
    deferrals = state.deferrals.ended_by(event, ENDS)
    return state if deferrals is state.deferrals else replace(state, deferrals=deferrals)


def _act_deferred(state: DeploymentState, event: ActDeferred, at: datetime) -> DeploymentState:
    deferrals = state.deferrals.defer(event.act, event.reason, at, until=event.retry_at, attempt=event.attempt)
    return replace(state, deferrals=deferrals)


def _act_refused(state: DeploymentState, event: ActRefused, at: datetime) -> DeploymentState:
    return replace(state, deferrals=state.deferrals.refuse(event.act, event.reason, at))


def _rejected(state: DeploymentState, event: LgpRejected, at: datetime) -> DeploymentState:
    act = ApplySecrets if event.key.kind == SECRET else ApplyLgp
    reason = f"{event.key}: {event.message}"
    return replace(state, deferrals=state.deferrals.refuse(act.__name__, reason, at), rejection=reason)


SECRET = "Secret"
"""The kind of Secrets."""


# --- phases


def _move(state: DeploymentState, event: Event, at: datetime) -> DeploymentState:
    """Return the state after the two transition tables."""
    revision = state.revision
    if revision is not None and not (isinstance(event, RevisionEvent) and event.revision_id != revision.id):
        phase = TRANSITIONS.after(revision.phase, event)
        if phase is not revision.phase:
            state = _with_current(state, replace(revision, phase=phase, since=at))
    status = DEPLOYMENT_TRANSITIONS.after(state.status, event)
    return state if status is state.status else replace(state, status=status)


def _with_current(state: DeploymentState, revision: Revision) -> DeploymentState:
    return replace(state, revisions=replace(state.revisions, current=revision))


def _current(state: DeploymentState, event: RevisionEvent) -> Revision | None:
    """Return the current revision if `event` is about it."""
    revision = state.revision
    return revision if revision is not None and revision.id == event.revision_id else None


# --- what the control plane asks for


def _registered(state: DeploymentState, event: DeploymentRegistered, at: datetime) -> DeploymentState:
    # A deployment that was deleted and exists again (restored on the control plane) starts anew. Only the statuses of
    # its revisions are kept: a reported status never goes backwards.
    statuses = {subject: status for subject, status in state.reports.statuses.items() if subject != DEPLOYMENT}
    fresh = DeploymentState(reports=Reports(statuses=statuses)) if state.deleted else state
    registration = Registration(
        id=event.deployment_id,
        name=event.name,
        workspace_id=event.workspace_id,
        listener_id=event.listener_id,
        namespace=event.namespace,
        at=fresh.registration.at or at,
    )
    lgp = replace(fresh.lgp, name=event.lgp) if fresh.lgp.adopted is None else fresh.lgp
    return replace(fresh, registration=registration, lgp=lgp)


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
    revisions = replace(
        state.revisions,
        current=revision,
        predecessor=before if deployed else state.revisions.predecessor,
        content_digest=event.content_digest,
    )
    return replace(
        state,
        revisions=revisions,
        health=None,
        secrets=replace(state.secrets, pruned_for=""),
        reports=replace(state.reports, unsupported=False),
    )


def _superseded(state: DeploymentState, event: RevisionSuperseded, at: datetime) -> DeploymentState:
    revision = _current(state, event)
    if revision is None:
        return state
    if state.reports.statuses.get(revision.id) in FINAL:
        return state  # other content of a revision that had ended before: the reported status stays true of it
    closed = Closed(id=revision.id, status=revision.phase, reason=f"superseded by {event.by}")
    return replace(state, revisions=replace(state.revisions, closed=(*state.revisions.closed, closed)))


def _deletion_requested(state: DeploymentState, event: DeletionRequested, at: datetime) -> DeploymentState:
    before = state.deletion
    deletion = Deletion(reason=event.reason) if before is None else replace(before, reason=event.reason)
    return replace(state, deletion=deletion)


def _paused(state: DeploymentState, event: Paused, at: datetime) -> DeploymentState:
    return replace(state, paused=True)


def _resumed(state: DeploymentState, event: Resumed, at: datetime) -> DeploymentState:
    return replace(state, paused=False)


# --- what acts did


def _secrets_applied(state: DeploymentState, event: SecretsApplied, at: datetime) -> DeploymentState:
    state = replace(state, secrets=replace(state.secrets, drifted=False))
    revision = _current(state, event)
    return state if revision is None else _with_current(state, replace(revision, secret=event.secret))


def _adopted(state: DeploymentState, event: LgpAdopted, at: datetime) -> DeploymentState:
    adopted = AdoptedLgp(
        untouched_for=event.revision_id if event.spec_digest else "",
        spec_digest=event.spec_digest,
        database=event.database,
    )
    return replace(state, lgp=replace(state.lgp, name=event.lgp, adopted=adopted, made=False))


def _lgp_applied(state: DeploymentState, event: LgpApplied, at: datetime) -> DeploymentState:
    before, live = state.lgp.applied, event.fingerprint
    # While the current revision has no LGP yet, the apply repaired the LGP of the revision before it.
    current = _current(state, event)
    if current is not None and (event.restored or not _has_lgp(current)):
        current = None
    state = replace(
        state,
        lgp=replace(
            state.lgp,
            adopted=_still_adopted(state.lgp.adopted, event),
            made=event.created or state.lgp.made,
            applied=AppliedLgp(
                revision_id=event.revision_id,
                manifest_digest=event.manifest_digest,
                fingerprint=live,
                at=at,
                revision=current or _applied_before(state, event),
                stopped=event.stopped,
            ),
            drifted=False,
        ),
        deletion=None if state.deletion is None else replace(state.deletion, lgp_gone=False),
    )
    if event.created or (before is not None and before.fingerprint.uid != live.uid):
        # What was observed before is about another object; its generations say nothing about this one.
        state = replace(state, rollout=None)
    if current is None:
        return state
    if live.generation != current.lgp_generation:
        state = replace(state, health=None)
    # A rollout that was observed before this apply counts for it all the same if the apply changed nothing.
    return _with_current(state, replace(current, lgp_generation=live.generation))


def _has_lgp(revision: Revision) -> bool:
    return revision.phase in (Phase.DEPLOYING, Phase.DEPLOYED) or revision.lgp_generation > 0


def _applied_before(state: DeploymentState, event: LgpApplied) -> Revision | None:
    """Return the revision of an LGP that was put back: the predecessor's, or the one that was applied last."""
    if event.restored:
        return state.revisions.predecessor
    applied = state.lgp.applied
    return applied.revision if applied is not None and applied.revision_id == event.revision_id else None


def _still_adopted(adopted: AdoptedLgp | None, event: LgpApplied) -> AdoptedLgp | None:
    """Return what is kept of an adopted LGP after an apply: of a spec that the apply wrote, the database only."""
    if adopted is None or adopted.untouched_for in ("", event.revision_id):
        return adopted
    return AdoptedLgp(database=adopted.database)


def _health_checked(state: DeploymentState, event: HealthChecked, at: datetime) -> DeploymentState:
    if _current(state, event) is None:
        return state
    first = state.health.first if state.health is not None else at
    return replace(state, health=Health(ok=event.ok, attempts=event.attempt, first=first, last=at, detail=event.detail))


def _deployed(state: DeploymentState, event: RevisionDeployed, at: datetime) -> DeploymentState:
    return replace(state, revisions=replace(state.revisions, serving=event.revision_id))


def _failed(state: DeploymentState, event: RevisionFailed, at: datetime) -> DeploymentState:
    revision = _current(state, event)
    if revision is None:
        return state
    return _with_current(state, replace(revision, reason=event.reason, message=event.message))


def _pruned(state: DeploymentState, event: SecretsPruned, at: datetime) -> DeploymentState:
    return replace(state, secrets=replace(state.secrets, pruned_for=event.kept))


def _deletion_started(state: DeploymentState, event: DeletionStarted, at: datetime) -> DeploymentState:
    state = replace(state, lgp=replace(state.lgp, drifted=False))
    if state.deletion is None:
        return state
    gone = not event.existed or state.deletion.lgp_gone
    return replace(state, deletion=replace(state.deletion, started=at, checked=at, lgp_gone=gone))


def _deletion_pending(state: DeploymentState, event: DeletionPending, at: datetime) -> DeploymentState:
    if state.deletion is None:
        return state
    checks = state.deletion.checks + 1
    return replace(state, deletion=replace(state.deletion, checked=at, checks=checks, finalizers=event.finalizers))


def _deployment_deleted(state: DeploymentState, event: DeploymentDeleted, at: datetime) -> DeploymentState:
    return replace(state, secrets=replace(state.secrets, drifted=False))


def _reported(state: DeploymentState, event: StatusReported | StatusReportRejected, at: datetime) -> DeploymentState:
    subject = DEPLOYMENT if event.subject == "deployment" else event.id
    closed = tuple(revision for revision in state.revisions.closed if revision.id != event.id)
    kept = {revision.id for revision in closed} | {DEPLOYMENT, subject}
    if state.revision is not None:
        kept.add(state.revision.id)
    statuses = {known: status for known, status in state.reports.statuses.items() if known in kept}
    unsupported = isinstance(event, StatusReportRejected) and event.unsupported
    return replace(
        state,
        revisions=replace(state.revisions, closed=closed),
        reports=Reports(
            statuses={**statuses, subject: event.status}, unsupported=state.reports.unsupported or unsupported
        ),
    )


def _published(state: DeploymentState, event: EndpointPublished, at: datetime) -> DeploymentState:
    return replace(state, endpoint=Endpoint(published=event.url, tried=event.url))


def _not_published(state: DeploymentState, event: EndpointNotPublished, at: datetime) -> DeploymentState:
    return replace(state, endpoint=replace(state.endpoint, tried=event.url))


# --- what is observed in the cluster


def _rollout_observed(state: DeploymentState, event: RolloutObserved, at: datetime) -> DeploymentState:
    # A rollout that is no longer available has to pass its health checks again, before a deadline of their own.
    return replace(state, rollout=Rollout.of(event), health=state.health if event.available else None)


def _drifted(state: DeploymentState, event: DriftDetected, at: datetime) -> DeploymentState:
    if state.deleted:
        # A worker that slept through its lock left the object behind: everything is deleted once more.
        lgp, secrets = replace(state.lgp, drifted=True), replace(state.secrets, drifted=True)
        return replace(state, lgp=lgp, secrets=secrets)
    if event.key.kind == SECRET:
        return replace(state, secrets=replace(state.secrets, drifted=True))
    return replace(state, lgp=_with_drift(state.lgp, at))


def _with_drift(lgp: Lgp, at: datetime) -> Lgp:
    applied = lgp.applied.at if lgp.applied is not None else None
    repairs = lgp.repairs + 1 if applied is not None and at - applied < CALM else 1
    return replace(lgp, drifted=True, repairs=repairs, repair_at=at + repair_delay(repairs))


def _lgp_gone(state: DeploymentState, event: LgpGone, at: datetime) -> DeploymentState:
    if state.deletion is None:
        # Another writer deleted the LGP: that is drift.
        return replace(state, lgp=_with_drift(state.lgp, at), rollout=None)
    return replace(state, deletion=replace(state.deletion, lgp_gone=True))


HANDLERS = Handlers[DeploymentState](
    on(DeploymentRegistered, _registered),
    on(RevisionRequested, _requested),
    on(RevisionSuperseded, _superseded),
    on(DeletionRequested, _deletion_requested),
    on(SecretsApplied, _secrets_applied),
    on(LgpAdopted, _adopted),
    on(LgpApplied, _lgp_applied),
    on(LgpRejected, _rejected),
    on(RolloutObserved, _rollout_observed),
    on(HealthChecked, _health_checked),
    on(RevisionDeployed, _deployed),
    on(RevisionFailed, _failed),
    on(SecretsPruned, _pruned),
    on(DriftDetected, _drifted),
    on(LgpGone, _lgp_gone),
    on(DeletionStarted, _deletion_started),
    on(DeletionPending, _deletion_pending),
    on(DeploymentDeleted, _deployment_deleted),
    on(StatusReported, _reported),
    on(StatusReportRejected, _reported),
    on(EndpointPublished, _published),
    on(EndpointNotPublished, _not_published),
    on(Paused, _paused),
    on(Resumed, _resumed),
    on(ActDeferred, _act_deferred),
    on(ActRefused, _act_refused),
)
"""What each class of events changes in the state."""
