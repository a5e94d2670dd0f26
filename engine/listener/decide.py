"""What to do next for a deployment. Pure: a state, a time and the configuration in, one act or a wait out.

Order of business: reports to the control plane (they are quick, and a deferred one steps aside), then deletion, then
the current revision. An act that was deferred waits for its time, and what follows it with it; one that was refused
waits longer, and holds nothing else up.

A deployment of another listener or workspace (the settings changed, the log stayed) is left alone altogether.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from engine.listener.state import Closed, DeploymentState, Phase, Revision, Status
from engine.runtime.machine import Act, Decision, Done, Wait

DELETION_CHECK = timedelta(seconds=10)
"""How long to wait for the watcher to see the LGP go before looking ourselves; doubles with every look."""
LONGEST_DELETION_CHECK = timedelta(minutes=10)

HEALTH_INTERVAL_GROWTH = 1.5
LONGEST_HEALTH_INTERVAL = 15.0

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


def decide(state: DeploymentState, now: datetime, config: ListenerConfig) -> Decision:
    """Return the next act, a time to look again, or that nothing is left to do before an event comes."""
    if (owner := other_owner(state, config)) is not None:
        return Done(owner)
    waits: list[Wait] = []
    for candidate in _candidates(state, now, config):
        if isinstance(candidate, Wait):
            waits.append(candidate)
            continue
        retry_at = state.deferred.get(candidate.name)
        if retry_at is None or retry_at <= now:
            return candidate
        refused = state.refused.get(candidate.name)
        waits.append(Wait(retry_at, f"{candidate.name} is tried again{f': {refused}' if refused else ''}"))
        if refused is None and not isinstance(candidate, ASIDE):
            break  # the steps of a deployment come one after the other
    if waits:
        return min(waits, key=lambda wait: wait.until)
    return Done(state.last_reason or "nothing to do")


ASIDE = (ReportStatus, PublishEndpoint)
"""Acts that hold nothing up."""


def other_owner(state: DeploymentState, config: ListenerConfig) -> str | None:
    """Return whose the deployment is if it is not ours."""
    listener_id = state.listener_id or config.listener_id
    if not state.id or (listener_id, state.workspace_id) == (config.listener_id, config.workspace_id):
        return None
    return f"belongs to listener {listener_id} of workspace {state.workspace_id}: left alone"


def _candidates(state: DeploymentState, now: datetime, config: ListenerConfig) -> Iterator[Act | Wait]:
    """Yield what the state asks for, most urgent first."""
    if not state.id:
        return
    yield from _reports(state, config)
    if state.paused:
        return
    if state.deleted:
        yield from _remains(state)
    elif state.deletion_reason:
        yield from _deletion(state, now)
    elif state.revision is not None:
        yield from REVISION_STEPS[state.revision.phase](state, state.revision, now, config)


# --- reports ---------------------------------------------------------------------------------------------------------


def _reports(state: DeploymentState, config: ListenerConfig) -> Iterator[Act]:
    """Yield what the control plane is not yet told. The URL comes first: who waits for DEPLOYED asks for it then."""
    url = config.endpoint(state.lgp)
    deployed = state.revision is not None and state.revision.phase is Phase.DEPLOYED and not state.deletion_reason
    if deployed and url and state.endpoint_tried != url:
        yield PublishEndpoint(url=url, replaces=state.endpoint)
    report = next_report(state)
    if report is not None:
        yield report


def next_report(state: DeploymentState) -> ReportStatus | None:
    """Return the next thing the control plane is not yet told, if any."""
    if state.reports_unsupported:
        return None
    for closed in state.closed:
        return _report_closed(closed)
    revision = state.revision
    if revision is not None and not state.deletion_reason:
        reported = state.reported.get(revision.id, "QUEUED")
        if RANK[revision.phase] > RANK.get(reported, 0):
            return ReportStatus(
                subject="revision",
                id=revision.id,
                status=revision.phase,
                reason=revision.reason or None,
                message=revision.message or None,
            )
    told = state.reported.get("deployment", Status.AWAITING_DATABASE)
    if state.status != told and state.status is not Status.AWAITING_DELETE:
        return ReportStatus(subject="deployment", id=state.id, status=state.status, reason=None, message=None)
    return None


def _report_closed(closed: Closed) -> ReportStatus:
    return ReportStatus(
        subject="revision", id=closed.id, status=closed.status, reason="Superseded", message=closed.reason
    )


# --- deletion --------------------------------------------------------------------------------------------------------


def _deletion(state: DeploymentState, now: datetime) -> Iterator[Act | Wait]:
    if state.deletion_started is None:
        yield DeleteLgp()
    elif not state.lgp_gone:
        checked = state.deletion_checked or state.deletion_started
        due = checked + min(DELETION_CHECK * 2 ** min(state.deletion_checks, 20), LONGEST_DELETION_CHECK)
        yield ConfirmDeletion() if due <= now else Wait(due, "the LGP and its objects are going")
    else:
        yield DeleteSecrets()


def _remains(state: DeploymentState) -> Iterator[Act | Wait]:
    """Yield what removes things that are there although the deployment was deleted."""
    if state.drifted:
        yield DeleteLgp()
    if state.secret_drifted:
        yield DeleteSecrets()


# --- the current revision --------------------------------------------------------------------------------------------


def _queued(state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig) -> Iterator[Act | Wait]:
    failure = refusal(state, revision, config)
    if failure is not None:
        yield failure
        return
    yield from _repair_placed(state, now, config)
    yield from _until_deadline(ApplySecrets(revision_id=revision.id), state, revision, now, config)


def _until_deadline(
    act: Act, state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig
) -> Iterator[Act | Wait]:
    """Yield `act`; while the API server rejects what it applies, only until the rollout's deadline."""
    if state.rejection:
        deadline = revision.since + timedelta(seconds=config.rollout_deadline)
        if deadline <= now:
            yield FailRevision(revision_id=revision.id, reason="ObjectRejected", message=state.rejection)
        yield act
        yield Wait(deadline, state.rejection)
    else:
        yield act


def _repair_placed(state: DeploymentState, now: datetime, config: ListenerConfig) -> Iterator[Act | Wait]:
    """Yield what brings back the LGP of the revision before, which serves while the current one has none."""
    manifest = placed_manifest(state, config) if state.drifted and config.watches(state.namespace) else None
    if manifest is not None and state.applied is not None:
        repair = ApplyLgp(revision_id=state.applied.revision_id, manifest_digest=digest(manifest))
        yield _unless_fought_over(repair, state, now)


def _unless_fought_over(repair: Act, state: DeploymentState, now: datetime) -> Act | Wait:
    """Return `repair`, or a wait while somebody keeps undoing it."""
    if state.repair_at is None or state.repair_at <= now:
        return repair
    return Wait(state.repair_at, "somebody keeps changing the LGP")


def refusal(state: DeploymentState, revision: Revision, config: ListenerConfig) -> FailRevision | None:
    """Return why this revision cannot be deployed whatever we do, if so."""
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


def _awaiting_deploy(
    state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig
) -> Iterator[Act | Wait]:
    failure = refusal(state, revision, config)
    if failure is not None:
        yield failure
        return
    yield from _until_deadline(apply_lgp(state, revision, config), state, revision, now, config)


def apply_lgp(state: DeploymentState, revision: Revision, config: ListenerConfig) -> ApplyLgp:
    return ApplyLgp(revision_id=revision.id, manifest_digest=digest(desired_manifest(state, config)))


def _deploying(
    state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig
) -> Iterator[Act | Wait]:
    if state.secret_drifted:
        yield ApplySecrets(revision_id=revision.id)
    elif _must_apply_again(state, config):
        yield refusal(state, revision, config) or _apply_again(state, revision, now, config)
        return
    rollout = state.rollout if state.rollout and state.rollout.generation >= revision.lgp_generation else None
    if rollout is not None and rollout.available:
        yield from _health(state, revision, now, config)
        return
    if rollout is not None and rollout.failing_since is not None:
        disowned = max(rollout.failing_since, revision.since) + timedelta(seconds=config.failure_grace)
        failure = FailRevision(revision_id=revision.id, reason=rollout.reason, message=rollout.message)
        yield failure if disowned <= now else Wait(disowned, f"{rollout.reason}: the pod may still come up")
    deadline = revision.since + timedelta(seconds=config.rollout_deadline)
    if deadline <= now:
        told = f"; last seen: {rollout.reason}: {rollout.message}" if rollout and rollout.reason else ""
        yield FailRevision(
            revision_id=revision.id,
            reason="RolloutDeadlineExceeded",
            message=f"the rollout did not become available within {config.rollout_deadline:g} s{told}",
        )
    yield Wait(deadline, "the rollout is under way")


def _health(state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig) -> Iterator[Act | Wait]:
    url = config.endpoint(state.lgp)
    health = state.health
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
            + "The pods are ready, so look at the route: hostname, path, TLS, and whether the "
            "listener can reach the hostname from inside the cluster: health_check_address says where else to connect, "
            "and health_check_enabled=false (config.enableLGPDeploymentHealthCheck) goes without the check",
        )
        return
    interval = config.health_interval * HEALTH_INTERVAL_GROWTH ** min(health.attempts - 1, 20)
    again = min(deadline, health.last + timedelta(seconds=min(interval, LONGEST_HEALTH_INTERVAL)))
    yield check if again <= now else Wait(again, "the health check is tried again")


def _deployed(
    state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig
) -> Iterator[Act | Wait]:
    if not config.watches(state.namespace):
        return  # no longer ours: left as it is
    if state.secret_drifted:
        yield ApplySecrets(revision_id=revision.id)
    if _must_apply_again(state, config):
        yield _apply_again(state, revision, now, config)
    elif state.pruned_for != revision.secret:
        yield PruneSecrets(keep=revision.secret)


def _failed(state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig) -> Iterator[Act | Wait]:
    """A failed revision is not tried again: the LGP is put back to the one that was deployed before it. After a first
    revision that failed there is none: where its pods would fail for ever, the LGP asks for none any more; otherwise
    what is in the cluster of it is kept there, for people to look at, and for the cluster to heal.
    """
    if not config.watches(state.namespace):
        return
    if state.secret_drifted and revision.lgp_generation:
        yield ApplySecrets(revision_id=revision.id)
    restored = predecessor_manifest(state, config)
    if restored is not None and state.predecessor is not None:
        restore = ApplyLgp(revision_id=state.predecessor.id, manifest_digest=digest(restored), restores=True)
        if state.applied is None or state.applied.manifest_digest != restore.manifest_digest:
            yield restore
        elif state.drifted:
            yield _unless_fought_over(restore, state, now)
    elif not revision.lgp_generation:
        yield from _repair_placed(state, now, config)
    else:
        yield from _stop(state, revision, now, config)


def _stop(state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig) -> Iterator[Act | Wait]:
    """Yield what takes the pods of a failed revision away, or brings them back where that is no longer configured."""
    stops = is_stopped(state, revision, config)
    apply = apply_lgp(state, revision, config).model_copy(update={"stops": stops})
    stopped = state.applied is not None and state.applied.stopped
    if (stops or stopped) and _asks_for_another(state, config):
        yield apply
    elif state.drifted:
        yield _unless_fought_over(apply, state, now)


def _nothing(state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig) -> Iterator[Act | Wait]:
    yield from ()


def _must_apply_again(state: DeploymentState, config: ListenerConfig) -> bool:
    """Whether the LGP drifted, or our configuration asks for another one now."""
    return state.drifted or _asks_for_another(state, config)


def _asks_for_another(state: DeploymentState, config: ListenerConfig) -> bool:
    applied = state.applied
    return applied is None or applied.manifest_digest != digest(desired_manifest(state, config))


def _apply_again(state: DeploymentState, revision: Revision, now: datetime, config: ListenerConfig) -> Act | Wait:
    repair = apply_lgp(state, revision, config)
    return repair if _asks_for_another(state, config) else _unless_fought_over(repair, state, now)


REVISION_STEPS = {
    Phase.QUEUED: _queued,
    Phase.AWAITING_DEPLOY: _awaiting_deploy,
    Phase.DEPLOYING: _deploying,
    Phase.DEPLOYED: _deployed,
    Phase.DEPLOY_FAILED: _failed,
    Phase.SKIPPED: _nothing,
    Phase.INTERRUPTED: _nothing,
}
"""What each phase asks for."""
