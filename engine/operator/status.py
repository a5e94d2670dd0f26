"""Computes the status of an LGP: what the listener (upstream's or ours) and people with kubectl learn of it. Pure.

The conditions:

- Available: True when this generation is rolled out and at least one replica of the Agent Server is still available.
  Rolled out means: every Deployment runs only pods of the newest template, all replicas are available, and the database
  is ready. After the rollout, the replacement of a pod does not make the LGP unavailable.
- Progressing: True during the rollout.
- Degraded: True when something is wrong: a pod that cannot start, an object that the API server rejects, a missing
  permission. The most telling problem gives the reason; the message has all problems. `lastTransitionTime` says since
  when the problem of the reason exists, so that a reader can give the problem time: a failed image pull may recover.
  A pod that crashes before the database is ready is no problem yet.
- DatabaseReady: also True when the operator makes no database for the LGP.
- Autoscaling: only for an LGP that asks for autoscalers. True when they exist and work; Unknown while a new autoscaler
  does not work yet; False, with a fix in the message, when one cannot be created or has not worked for minutes. False
  does not make the LGP Degraded: its pods roll out and serve, with the replicas that they have.
- DisruptionBudgets: only when a PodDisruptionBudget cannot be created: False, with a fix in the message.
- IgnoredFields: only when fields of the spec have no effect: True, with their paths in the message.

An LGP that the listener stopped because its revision failed has no pods that could show why. The LGP itself says why,
and is Degraded, not Available and not Progressing with that reason.

Times come from events. A condition that changes gets the time of the state's last event; another condition keeps the
time that the previous status has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.kubernetes.repairs import FREE_REPAIRS
from engine.operator.acts import ApplyStatus
from engine.operator.conditions import LONGEST_MESSAGE
from engine.operator.events import LgpStatus, RolledOut, WorkloadStatus
from engine.operator.manifests import is_budget
from engine.operator.observation import autoscalers
from engine.operator.plan import Plan, PlannedObject
from engine.operator.scaling import KIND_NOT_SERVED, is_autoscaler
from engine.operator.state import AutoscalerState, ObservedLgp, OperatorState, Rejection, WorkloadState

CURED_BY_DATABASE = frozenset({"CrashLoopBackOff", "ProgressDeadlineExceeded"})
"""Reasons of failures that a database explains which is not ready yet."""
REPORTED_ATTEMPTS = 3
"""The status reports an act from this number of passing failures in a row on."""
STOPPED = "the revision failed and was scaled to zero, its database stays; a newer revision starts the pods again"

Condition = LgpStatus
"""A condition of the LGP's status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that makes the LGP Degraded."""

    reason: str
    message: str
    since: datetime | None = None
    """When the problem was first observed (UTC); None when the state does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedStatus:
    """The result of `compute_status`."""

    status: LgpStatus
    """The LGP's status to write."""
    rolled_out: RolledOut | None
    """The newest generation that rolled out completely; None before the first rollout."""


def compute_status(state: OperatorState, plan: Plan) -> ComputedStatus:
    """Return the status of the LGP in `state`, which asks for `plan`. Raises ValueError when `state.lgp` is None."""
    lgp = state.lgp
    if lgp is None:
        raise ValueError("an LGP that was never observed has no status")
    return _StatusComputation(state, plan, lgp).result()


def timestamp(at: datetime) -> str:
    """Return `at` as Kubernetes writes times: RFC 3339 in UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def current_workload(state: OperatorState, planned: PlannedObject) -> WorkloadState | None:
    """Return the observed state of a workload; None when the observation is older than the planned manifest."""
    entry, workload = state.objects.get(str(planned.key)), state.workloads.get(str(planned.key))
    if entry is None or workload is None or entry.applied.digest != planned.digest:
        return None
    applied, observed = entry.applied.fingerprint, workload.observed
    return workload if observed.uid == applied.uid and observed.generation >= applied.generation else None


class _StatusComputation:
    def __init__(self, state: OperatorState, plan: Plan, lgp: ObservedLgp) -> None:
        self.state, self.plan, self.lgp = state, plan, lgp
        self.now = timestamp(state.changed_at or datetime.min.replace(tzinfo=UTC))
        self.before: Mapping[str, Condition] = {c["type"]: c for c in state.status.get("conditions", [])}
        """Type → the condition in the previous status."""
        self.workloads = {
            key: current_workload(state, planned)
            for key, planned in plan.objects.items()
            if planned.key.kind in ("Deployment", "StatefulSet")
        }

    def result(self) -> ComputedStatus:
        database = self._database()
        database_since = database["lastTransitionTime"] if database["status"] == "True" else None
        problems = list(self._problems(database_since))
        rolled_out = self._rolled_out(database["status"] == "True")
        conditions = [
            self._available(rolled_out, problems),
            self._progressing(rolled_out, problems, database),
            self._degraded(problems),
            database,
            *self._autoscaling(),
            *self._budgets(),
            *self._ignored(),
        ]
        endpoint = self.plan.endpoint or self.state.status.get("endpoint")
        status: LgpStatus = {
            "observedGeneration": self.lgp.generation,
            "conditions": conditions,
            **({"endpoint": endpoint} if endpoint else {}),
            "deploymentStatus": self._deployment_status(rolled_out),
            **self._replica_sets(rolled_out),
        }
        return ComputedStatus(status=status, rolled_out=rolled_out)

    def _rolled_out(self, database_ready: bool) -> RolledOut | None:
        """Return the newest generation that rolled out completely: this one, or still an earlier one."""
        before = self.state.rolled_out
        if self.lgp.stopped is not None or (before is not None and before.generation == self.lgp.generation):
            return before
        deployments = [w for key, w in self.workloads.items() if key != self.plan.database]
        complete = all(w is not None and w.observed.rolled_out for w in deployments)
        if self.plan.problem is None and deployments and complete and database_ready:
            return RolledOut(generation=self.lgp.generation, revision=self.lgp.revision, at=self.now)
        return before

    def _is_rolled_out(self, rolled_out: RolledOut | None) -> bool:
        return rolled_out is not None and rolled_out.generation == self.lgp.generation

    @property
    def _server(self) -> WorkloadStatus | None:
        """The Agent Server's Deployment as last observed, whether or not it is as planned."""
        workload = self.state.workloads.get(self.plan.server)
        return workload.observed if workload else None

    # --- problems

    def _problems(self, database_since: str | None) -> Iterator[Problem]:
        if self.plan.problem is not None:
            reason, message = self.plan.problem
            yield Problem(reason=reason, message=message)
        if (stopped := self.lgp.stopped) is not None:
            yield Problem(reason=stopped.reason, message=f"{STOPPED}. The revision failed with: {stopped.message}")
        yield from self._workload_problems(database_since)
        for key, rejection in self._rejections():
            if not (is_autoscaler(self.plan.objects[key].key) or is_budget(self.plan.objects[key].key)):
                yield Problem(
                    reason=_rejection_reason(rejection),
                    message=_rejection_message(key, rejection),
                    since=rejection.since,
                )
        for key, entry in self.state.objects.items():
            if entry.drift and entry.repairs > FREE_REPAIRS and key in self.plan.objects:
                message = f"{key} was repaired {entry.repairs - 1} times in a row and is changed again: {entry.drift}"
                yield Problem(reason="FoughtOver", message=f"{message}; stop the other writer (another operator?)")
        for act, deferral in self.state.deferrals:
            if act != ApplyStatus.__name__ and (deferral.refused or deferral.attempts >= REPORTED_ATTEMPTS):
                reason = "Refused" if deferral.refused else "Unreachable"
                yield Problem(reason=reason, message=f"{act}: {deferral.reason}", since=deferral.since)
        if self.plan.route_problem:
            yield Problem(reason="NoRoute", message=self.plan.route_problem)

    def _rejections(self) -> Iterator[tuple[str, Rejection]]:
        """Yield the rejections of manifests that are still planned."""
        for key, rejection in self.state.rejected.items():
            planned = self.plan.objects.get(key)
            if planned is not None and planned.digest == rejection.digest:
                yield key, rejection

    def _workload_problems(self, database_since: str | None) -> Iterator[Problem]:
        for key, workload in self.workloads.items():
            if workload is None:
                continue
            since = workload.failing_since
            for problem in _failures(workload.observed, since):
                if key == self.plan.database or problem.reason not in CURED_BY_DATABASE:
                    yield problem
                elif database_since is not None:
                    ready = datetime.fromisoformat(database_since)
                    late = problem.since is not None and problem.since > ready
                    yield problem if late else Problem(reason=problem.reason, message=problem.message, since=ready)

    # --- conditions

    def _condition(self, kind: str, value: bool | None, reason: str, message: str, at: str | None = None) -> Condition:
        """Return a condition. The `value` None means Unknown; `at` (RFC 3339) replaces the computed transition time."""
        status = "Unknown" if value is None else str(value)
        before = self.before.get(kind)
        if at is None:
            at = before["lastTransitionTime"] if before is not None and before["status"] == status else self.now
        return {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message[:LONGEST_MESSAGE],
            "lastTransitionTime": at,
            "observedGeneration": self.lgp.generation,
        }

    def _available(self, rolled_out: RolledOut | None, problems: list[Problem]) -> Condition:
        server = self._server
        available = server.available if server else 0
        if self._is_rolled_out(rolled_out):
            if available or (server is not None and server.desired == 0):
                return self._condition("Available", True, "RolledOut", "this generation is rolled out and available")
            return self._condition("Available", False, "NoReplicas", "no replica of the Agent Server is available")
        reason = problems[0].reason if problems else "RollingOut"
        message = f"generation {self.lgp.generation} is not rolled out"
        if rolled_out is not None and available:
            earlier = (
                f"revision {rolled_out.revision}" if rolled_out.revision else f"generation {rolled_out.generation}"
            )
            message += f"; {earlier} keeps serving"
        return self._condition("Available", False, reason, message)

    def _progressing(self, rolled_out: RolledOut | None, problems: list[Problem], database: Condition) -> Condition:
        if self._is_rolled_out(rolled_out):
            return self._condition("Progressing", False, "RolledOut", "the rollout is complete")
        if self.plan.problem is not None:
            return self._condition("Progressing", False, *self.plan.problem)
        if self.lgp.stopped is not None:
            return self._condition("Progressing", False, "Stopped", STOPPED)
        stuck = next((p for p in problems if p.reason == "ProgressDeadlineExceeded"), None)
        if stuck is not None:
            return self._condition("Progressing", False, stuck.reason, stuck.message)
        if database["status"] == "False":
            return self._condition("Progressing", True, "WaitingForDatabase", database["message"])
        return self._condition(
            "Progressing", True, "RollingOut", "; ".join(self._unfinished()) or "the rollout is nearly complete"
        )

    def _unfinished(self) -> Iterator[str]:
        for key, workload in self.workloads.items():
            if workload is None:
                yield f"{key} was not observed yet"
            elif not workload.observed.rolled_out:
                now = workload.observed
                progress = f"{key}: {now.updated} of {now.desired} replicas updated, {now.available} available"
                yield f"{progress}; {now.unschedulable}" if now.unschedulable else progress

    def _degraded(self, problems: list[Problem]) -> Condition:
        if not problems:
            return self._condition("Degraded", False, "AsExpected", "nothing is wrong")
        first = problems[0]
        message = "\n".join(dict.fromkeys(problem.message for problem in problems))
        at = timestamp(first.since) if first.since else self._same_problem_since(first.reason)
        return self._condition("Degraded", True, first.reason, message, at)

    def _same_problem_since(self, reason: str) -> str:
        before = self.before.get("Degraded")
        if before is None or before["status"] != "True" or before["reason"] != reason:
            return self.now
        same = before["observedGeneration"] == self.lgp.generation
        return str(before["lastTransitionTime"]) if same else self.now

    def _database(self) -> Condition:
        if self.plan.problem is None and self.plan.database not in self.plan.objects:
            return self._condition("DatabaseReady", True, "NotManaged", "the operator makes no database for this LGP")
        workload = self.workloads.get(self.plan.database)
        now = workload.observed if workload else None
        if now is not None and now.ready >= 1:
            return self._condition("DatabaseReady", True, "Ready", f"{now.ready} of {now.desired} replicas ready")
        before = self.before.get("DatabaseReady")
        if workload is None and before is not None and before["status"] == "True":
            # The StatefulSet is being applied again; no observation says that the database is no longer ready.
            return self._condition("DatabaseReady", True, before["reason"], before["message"])
        why = f"; {now.unschedulable}" if now is not None and now.unschedulable else ""
        return self._condition("DatabaseReady", False, "NotReady", f"Postgres is not ready yet{why}")

    def _autoscaling(self) -> Iterator[Condition]:
        planned = [key for key, one in self.plan.objects.items() if is_autoscaler(one.key)]
        rejected = [(key, rejection) for key, rejection in self._rejections() if key in planned]
        if rejected:
            message = "\n".join(_rejection_message(key, rejection) for key, rejection in rejected)
            yield self._condition("Autoscaling", False, _rejection_reason(rejected[0][1]), message)
        elif planned and all(key in self.state.objects for key in planned):
            yield self._autoscalers_at_work(planned)
        elif planned:
            yield self._condition("Autoscaling", False, "Pending", f"not all of these exist yet: {', '.join(planned)}")
        elif self.plan.problem is not None and "Autoscaling" in self.before:
            yield self.before["Autoscaling"]  # the plan is empty, and the operator leaves the cluster as it is

    def _autoscalers_at_work(self, keys: list[str]) -> Condition:
        """Return what the existing autoscalers report of their health."""
        known = [self.state.autoscalers[key] for key in keys if key in self.state.autoscalers]
        unhealthy = [one.observed for one in known if one.unhealthy]
        if unhealthy:
            message = "\n".join(autoscalers.describe_problem(one.key, one.reason, one.message) for one in unhealthy)
            return self._condition("Autoscaling", False, unhealthy[0].reason, message)
        waiting = [_waiting_message(one) for one in known if one.since is not None and not one.worked]
        if waiting:
            return self._condition("Autoscaling", None, "Waiting", "\n".join(waiting))
        return self._condition("Autoscaling", True, "Applied", f"the number of replicas is set by {', '.join(keys)}")

    def _budgets(self) -> Iterator[Condition]:
        rejected = [one for key, one in self._rejections() if is_budget(self.plan.objects[key].key)]
        if rejected:
            message = "\n".join(rejection.message for rejection in rejected)
            yield self._condition("DisruptionBudgets", False, _rejection_reason(rejected[0]), message)
        elif self.plan.problem is not None and "DisruptionBudgets" in self.before:
            yield self.before["DisruptionBudgets"]  # the plan is empty, and the operator leaves the cluster as it is

    def _ignored(self) -> Iterator[Condition]:
        reports = []
        if unknown := self.lgp.unknown_fields:
            reports.append(
                f"fields that this version of agentplane does not know, and leaves in the LGP: {', '.join(unknown)}; "
                "upgrade agentplane if a newer listener wrote the fields, correct them if they are misspelt"
            )
        reports += [f"overridden: {field}" for field in self.plan.overridden]
        if reports:
            reason = "UnknownFields" if unknown else "OverriddenFields"
            yield self._condition("IgnoredFields", True, reason, "\n".join(reports))

    # --- the fields beside the conditions

    def _deployment_status(self, rolled_out: RolledOut | None) -> LgpStatus:
        """Return the part of the status under `deploymentStatus`."""
        status: LgpStatus = {}
        if (server := self._server) is not None:
            status |= {
                "replicas": server.replicas,
                "readyReplicas": server.ready,
                "updatedReplicas": server.updated,
                "availableReplicas": server.available,
            }
        if rolled_out is not None:
            revision = rolled_out.revision or f"generation-{rolled_out.generation}"
            status |= {"updateRevision": revision, "lastUpdateTime": rolled_out.at}
        return status

    def _replica_sets(self, rolled_out: RolledOut | None) -> LgpStatus:
        """Return references to the ReplicaSet created last and to the ReplicaSet rolled out last."""
        found: LgpStatus = {
            name: self.state.status[name]
            for name in ("lastCreatedReplicaSet", "lastSuccessfulReplicaSet")
            if name in self.state.status
        }
        workload = self.workloads.get(self.plan.server)
        if workload is not None and workload.observed.template:
            newest = workload.observed
            reference = {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "namespace": newest.key.namespace,
                "name": newest.template,
                "uid": newest.template_uid,
            }
            found["lastCreatedReplicaSet"] = reference
            if self._is_rolled_out(rolled_out):
                found["lastSuccessfulReplicaSet"] = reference
        return found


def _failures(workload: WorkloadStatus, since: datetime | None) -> Iterator[Problem]:
    if (failure := workload.failure) is not None:
        where = f"pod {failure.pod}, container {failure.container}: " if failure.pod else ""
        message = f"{workload.key}: {where}{failure.message}"
        if failure.log:
            message += f"\nlast log lines:\n{failure.log}"
        yield Problem(reason=failure.reason, message=message, since=since)
    if workload.deadline_exceeded:
        yield Problem(reason="ProgressDeadlineExceeded", message=f"{workload.key}: {workload.deadline_exceeded}")


def _waiting_message(autoscaler: AutoscalerState) -> str:
    observed = autoscaler.observed
    return (
        f"{observed.key} does not work yet, as is usual for the first minutes ({observed.reason}: {observed.message})"
    )


def _rejection_reason(rejection: Rejection) -> str:
    return KIND_NOT_SERVED if rejection.reason == KIND_NOT_SERVED else "ObjectRejected"


def _rejection_message(key: str, rejection: Rejection) -> str:
    if rejection.reason == KIND_NOT_SERVED:
        return rejection.message
    return f"{key} was rejected ({rejection.status} {rejection.reason}): {rejection.message}"
