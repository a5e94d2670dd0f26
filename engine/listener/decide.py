"""What to do next for a deployment. Pure: a state, a time and the configuration in, one act or a wait out.

Order of business: reports to the control plane (they are quick, and a deferred report holds nothing up), then a
deletion, then the current revision. A deferred act waits for its time, and the acts that follow it wait too. A refused
act waits longer, and holds nothing else up.

A deployment of another listener or workspace (the settings changed, the log stayed) is left alone altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.digests import digest
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
from engine.listener.desired import desired_manifest, is_stopped, placed_manifest, predecessor_manifest
from engine.listener.environment import malformed_names, reserved_names
from engine.listener.state import DEPLOYMENT, Closed, Deletion, DeploymentState, Phase, Revision, Status
from engine.runtime.machine import Act, Decision, Done, Wait

DELETION_CHECK = timedelta(seconds=10)
"""How long to wait for the watcher to see the LGP go before the listener checks; doubles with every check."""
LONGEST_DELETION_CHECK = timedelta(minutes=10)

HEALTH_INTERVAL_GROWTH = 1.5
LONGEST_HEALTH_INTERVAL = 15.0
"""Seconds."""

RANK = {
    "CREATING": 0,
    "QUEUED": 1,
    "AWAITING_DEPLOY": 2,
    "DEPLOYING": 3,
    "DEPLOYED": 4,
    "DEPLOY_FAILED": 4,
    "SKIPPED": 4,
    "INTERRUPTED": 4,
}
"""Order of the reported statuses of one revision; a report never goes down."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision depends on."""

    state: DeploymentState
    now: datetime
    config: ListenerConfig


Candidates = Iterator[Act | Wait]
"""Acts and waits, most urgent first."""


def decide(state: DeploymentState, now: datetime, config: ListenerConfig) -> Decision:
    """Return the next act, a time to decide again, or that nothing is left to do before an event comes."""
    if (owner := other_owner(state, config)) is not None:
        return Done(owner)
    waits: list[Wait] = []
    for candidate in _candidates(Situation(state, now, config)):
        if isinstance(candidate, Wait):
            waits.append(candidate)
            continue
        deferral = state.deferrals.holding(candidate, now)
        if deferral is None:
            return candidate
        why = f": {deferral.reason}" if deferral.refused else ""
        waits.append(Wait(deferral.until, f"{candidate.name} is tried again{why}"))
        if not deferral.refused and not isinstance(candidate, ASIDE):
            break  # the steps of a deployment come one after the other
    if waits:
        return min(waits, key=lambda wait: wait.until)
    return Done(state.last_reason or "nothing to do")


ASIDE = (ReportStatus, PublishEndpoint)
"""Acts that hold nothing up while they are deferred."""


def other_owner(state: DeploymentState, config: ListenerConfig) -> str | None:
    """Return which listener and workspace the deployment belongs to, for a person; None when it is ours."""
    registration = state.registration
    listener_id = registration.listener_id or config.listener_id
    if not state.id or (listener_id, registration.workspace_id) == (config.listener_id, config.workspace_id):
        return None
    return f"belongs to listener {listener_id} of workspace {registration.workspace_id}: left alone"


def _candidates(situation: Situation) -> Candidates:
    """Yield what the state asks for."""
    state = situation.state
    if not state.id:
        return
    yield from _reports(situation)
    if state.paused:
        return
    if state.deleted:
        yield from _remains(state)
    elif state.deletion is not None:
        yield from _deletion(state.deletion, situation.now)
    elif state.revision is not None:
        yield from REVISION_STEPS[state.revision.phase](situation, state.revision)


# --- reports ---------------------------------------------------------------------------------------------------------


def _reports(situation: Situation) -> Iterator[Act]:
    """Yield reports that are not sent yet. The URL goes first: clients read it as soon as they see DEPLOYED."""
    state, url = situation.state, situation.config.endpoint(situation.state.lgp.name)
    deployed = state.revision is not None and state.revision.phase is Phase.DEPLOYED and state.deletion is None
    if deployed and url and state.endpoint.tried != url:
        yield PublishEndpoint(url=url, replaces=state.endpoint.published)
    report = next_report(state)
    if report is not None:
        yield report


def next_report(state: DeploymentState) -> ReportStatus | None:
    """Return the next status report that is not sent yet, None when all are."""
    if state.reports.unsupported:
        return None
    for closed in state.revisions.closed:
        return _report_closed(closed)
    revision = state.revision
    if revision is not None and state.deletion is None:
        reported = state.reports.statuses.get(revision.id, "QUEUED")
        if RANK[revision.phase] > RANK.get(reported, 0):
            return ReportStatus(
                subject="revision",
                id=revision.id,
                status=revision.phase,
                reason=revision.reason or None,
                message=revision.message or None,
            )
    reported = state.reports.statuses.get(DEPLOYMENT, Status.AWAITING_DATABASE)
    if state.status != reported and state.status is not Status.AWAITING_DELETE:
        return ReportStatus(subject="deployment", id=state.id, status=state.status, reason=None, message=None)
    return None


def _report_closed(closed: Closed) -> ReportStatus:
    return ReportStatus(
        subject="revision", id=closed.id, status=closed.status, reason="Superseded", message=closed.reason
    )


# --- deletion --------------------------------------------------------------------------------------------------------


def _deletion(deletion: Deletion, now: datetime) -> Candidates:
    if deletion.started is None:
        yield DeleteLgp()
    elif not deletion.lgp_gone:
        checked = deletion.checked or deletion.started
        due = checked + min(DELETION_CHECK * 2 ** min(deletion.checks, 20), LONGEST_DELETION_CHECK)
        yield ConfirmDeletion() if due <= now else Wait(due, "the LGP and its objects are being deleted")
    else:
        yield DeleteSecrets()


def _remains(state: DeploymentState) -> Candidates:
    """Yield the acts that delete objects which exist although the deployment was deleted."""
    if state.lgp.drifted:
        yield DeleteLgp()
    if state.secrets.drifted:
        yield DeleteSecrets()


# --- the current revision --------------------------------------------------------------------------------------------


def _queued(situation: Situation, revision: Revision) -> Candidates:
    failure = refusal(situation, revision)
    if failure is not None:
        yield failure
        return
    yield from _repair_placed(situation)
    yield from _until_deadline(ApplySecrets(revision_id=revision.id), situation, revision)


def _until_deadline(act: Act, situation: Situation, revision: Revision) -> Candidates:
    """Yield `act`; while the API server rejects what it applies, only until the rollout's deadline."""
    rejection = situation.state.rejection
    if rejection:
        deadline = revision.since + timedelta(seconds=situation.config.rollout_deadline)
        if deadline <= situation.now:
            yield FailRevision(revision_id=revision.id, reason="ObjectRejected", message=rejection)
        yield act
        yield Wait(deadline, rejection)
    else:
        yield act


def _repair_placed(situation: Situation) -> Candidates:
    """Yield the repair of the LGP that was applied last, which serves while the current revision has none."""
    state, config = situation.state, situation.config
    applied = state.lgp.applied
    manifest = placed_manifest(state, config) if state.lgp.drifted and config.watches(state.namespace) else None
    if manifest is not None and applied is not None:
        repair = ApplyLgp(revision_id=applied.revision_id, manifest_digest=digest(manifest))
        yield _unless_fought_over(repair, situation)


def _unless_fought_over(repair: Act, situation: Situation) -> Act | Wait:
    """Return `repair`, or a wait while another writer keeps undoing the repair."""
    repair_at = situation.state.lgp.repair_at
    if repair_at is None or repair_at <= situation.now:
        return repair
    return Wait(repair_at, "another writer keeps changing the LGP")


def refusal(situation: Situation, revision: Revision) -> FailRevision | None:
    """Return why this revision can never be deployed as it is; None when it can."""
    state, config = situation.state, situation.config
    if not config.watches(state.namespace):
        return FailRevision(
            revision_id=revision.id,
            reason="NamespaceNotWatched",
            message=f"namespace {state.namespace!r} is not among the watched ones ({', '.join(config.namespaces)}); "
            "add it to watchNamespaces or deploy elsewhere",
        )
    names = (*revision.secret_names, *(reference.name for reference in revision.secret_references))
    if taken := reserved_names(names):
        return FailRevision(
            revision_id=revision.id,
            reason="ReservedVariable",
            message=f"these variables are set by the platform and cannot be secrets: {', '.join(taken)}; remove them "
            "from the deployment",
        )
    if wrong := malformed_names(names):
        return FailRevision(
            revision_id=revision.id,
            reason="InvalidVariable",
            message=f"these names cannot be environment variables: {', '.join(wrong)}; rename them in the deployment",
        )
    return None


def _awaiting_deploy(situation: Situation, revision: Revision) -> Candidates:
    failure = refusal(situation, revision)
    if failure is not None:
        yield failure
        return
    yield from _until_deadline(_apply_lgp(situation, revision), situation, revision)


def _apply_lgp(situation: Situation, revision: Revision, *, stops: bool = False) -> ApplyLgp:
    manifest = desired_manifest(situation.state, situation.config)
    return ApplyLgp(revision_id=revision.id, manifest_digest=digest(manifest), stops=stops)


def _deploying(situation: Situation, revision: Revision) -> Candidates:
    state, now, config = situation.state, situation.now, situation.config
    if state.secrets.drifted:
        yield ApplySecrets(revision_id=revision.id)
    elif _must_apply_again(situation):
        yield refusal(situation, revision) or _apply_again(situation, revision)
        return
    rollout = state.rollout if state.rollout and state.rollout.generation >= revision.lgp_generation else None
    if rollout is not None and rollout.available:
        yield from _health(situation, revision)
        return
    if rollout is not None and rollout.failing_since is not None:
        fails_at = max(rollout.failing_since, revision.since) + timedelta(seconds=config.failure_grace)
        failure = FailRevision(revision_id=revision.id, reason=rollout.reason, message=rollout.message)
        yield failure if fails_at <= now else Wait(fails_at, f"{rollout.reason}: the pod may still come up")
    deadline = revision.since + timedelta(seconds=config.rollout_deadline)
    if deadline <= now:
        last = f"; last seen: {rollout.reason}: {rollout.message}" if rollout and rollout.reason else ""
        yield FailRevision(
            revision_id=revision.id,
            reason="RolloutDeadlineExceeded",
            message=f"the rollout did not become available within {config.rollout_deadline:g} s{last}",
        )
    yield Wait(deadline, "the rollout is under way")


def _health(situation: Situation, revision: Revision) -> Candidates:
    state, now, config = situation.state, situation.now, situation.config
    url, health = config.endpoint(state.lgp.name), state.health
    if not config.health_check or not url or (health is not None and health.ok):
        yield CompleteRevision(revision_id=revision.id)
        return
    check = CheckHealth(revision_id=revision.id, url=f"{url}/ok", attempt=health.attempts + 1 if health else 1)
    if health is None:
        yield check
        return
    deadline = health.first + timedelta(seconds=config.health_deadline)
    if deadline <= now:
        wrong = state.rollout.message.partition("\n")[0] if state.rollout is not None else ""
        yield FailRevision(
            revision_id=revision.id,
            reason="HealthCheckFailed",
            message=f"GET {url}/ok did not answer 200 within {config.health_deadline:g} s ({health.attempts} tries); "
            f"last: {health.detail}. "
            + (f"The LGP says: {wrong}. " if wrong else "")
            + "The pods are ready, so check the route: hostname, path, TLS, and whether the listener can reach the "
            "hostname from inside the cluster. health_check_address sets another address to connect to; "
            "health_check_enabled=false (config.enableLGPDeploymentHealthCheck) turns the check off",
        )
        return
    interval = config.health_interval * HEALTH_INTERVAL_GROWTH ** min(health.attempts - 1, 20)
    again = min(deadline, health.last + timedelta(seconds=min(interval, LONGEST_HEALTH_INTERVAL)))
    yield check if again <= now else Wait(again, "the health check is tried again")


def _deployed(situation: Situation, revision: Revision) -> Candidates:
    state = situation.state
    if not situation.config.watches(state.namespace):
        return  # the namespace is no longer ours: the deployment is left as it is
    if state.secrets.drifted:
        yield ApplySecrets(revision_id=revision.id)
    if _must_apply_again(situation):
        yield _apply_again(situation, revision)
    elif state.secrets.pruned_for != revision.secret:
        yield PruneSecrets(keep=revision.secret)


def _failed(situation: Situation, revision: Revision) -> Candidates:
    """Yield what a failed revision leaves to do. It is not tried again.

    The LGP is put back to the predecessor. A failed first revision has none: if its pods would fail for ever, the LGP
    is changed to ask for no pods. Otherwise its objects are kept in the cluster, so that people can inspect them, and
    they come up when the cluster recovers.
    """
    state, config = situation.state, situation.config
    if not config.watches(state.namespace):
        return
    if state.secrets.drifted and revision.lgp_generation:
        yield ApplySecrets(revision_id=revision.id)
    restored, predecessor = predecessor_manifest(state, config), state.revisions.predecessor
    if restored is not None and predecessor is not None:
        restore = ApplyLgp(revision_id=predecessor.id, manifest_digest=digest(restored), restores=True)
        applied = state.lgp.applied
        if applied is None or applied.manifest_digest != restore.manifest_digest:
            yield restore
        elif state.lgp.drifted:
            yield _unless_fought_over(restore, situation)
    elif not revision.lgp_generation:
        yield from _repair_placed(situation)
    else:
        yield from _stop(situation, revision)


def _stop(situation: Situation, revision: Revision) -> Candidates:
    """Yield the act that removes the pods of a failed revision, or brings them back if that is no longer configured."""
    state = situation.state
    stops = is_stopped(state, revision, situation.config)
    apply = _apply_lgp(situation, revision, stops=stops)
    stopped = state.lgp.applied is not None and state.lgp.applied.stopped
    if (stops or stopped) and _asks_for_another(situation):
        yield apply
    elif state.lgp.drifted:
        yield _unless_fought_over(apply, situation)


def _nothing(situation: Situation, revision: Revision) -> Candidates:
    yield from ()


def _must_apply_again(situation: Situation) -> bool:
    """Whether the LGP drifted, or the configuration now asks for another LGP."""
    return situation.state.lgp.drifted or _asks_for_another(situation)


def _asks_for_another(situation: Situation) -> bool:
    applied = situation.state.lgp.applied
    return applied is None or applied.manifest_digest != digest(desired_manifest(situation.state, situation.config))


def _apply_again(situation: Situation, revision: Revision) -> Act | Wait:
    repair = _apply_lgp(situation, revision)
    return repair if _asks_for_another(situation) else _unless_fought_over(repair, situation)


REVISION_STEPS: Mapping[Phase, Callable[[Situation, Revision], Candidates]] = {
    Phase.QUEUED: _queued,
    Phase.AWAITING_DEPLOY: _awaiting_deploy,
    Phase.DEPLOYING: _deploying,
    Phase.DEPLOYED: _deployed,
    Phase.DEPLOY_FAILED: _failed,
    Phase.SKIPPED: _nothing,
    Phase.INTERRUPTED: _nothing,
}
"""What each phase asks for."""
