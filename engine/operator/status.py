"""The status of an LGP: everything that the listener, upstream's or ours, and people with kubectl learn of it. Pure.

Conditions:

- Available: this generation is rolled out (every Deployment runs the newest template only, all replicas available,
  the database ready) and at least one API server is still available. Once rolled out, a pod that is replaced does not
  make it unavailable.
- Progressing: True while it rolls out.
- Degraded: something is wrong: a pod that cannot start, an object that the API server rejects, a missing permission.
  The most telling problem gives the reason, all of them the message. `lastTransitionTime` says since when *that*
  problem is there, so whoever reads it can give it time: an image pull may recover by itself. A pod that crashes
  before the database is ready is no problem yet.
- DatabaseReady: also True when none is made.
- Autoscaling: True when the autoscalers that the LGP asks for are made and work, Unknown while one that is new does not
  work yet, False when one cannot be made or has not worked for minutes, with what to do about it. Said only of an LGP
  that asks for them. That is no degradation: what is asked for rolls out and serves, with the replicas that it has.
- DisruptionBudgets: False when a PodDisruptionBudget cannot be made, with what to do about it; else it is not there.
- IgnoredFields: True when the spec has fields that mean nothing here, and which; else it is not there.

An LGP that the listener stopped, because its revision failed, has no pods that could say why; it says so itself, and is
Degraded, not Available and not Progressing for that reason.

Times come from the events: from the state's last change where a condition changes, else from the status before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.kubernetes.repairs import FREE_REPAIRS
from engine.operator.conditions import LONGEST_MESSAGE
from engine.operator.events import RolledOut, WorkloadStatus
from engine.operator.manifests import is_budget
from engine.operator.observation import autoscalers
from engine.operator.plan import Plan, PlannedObject
from engine.operator.scaling import KIND_NOT_SERVED, is_autoscaler
from engine.operator.state import AutoscalerState, ObservedLgp, OperatorState, Rejection, WorkloadState

CURED_BY_DATABASE = frozenset({"CrashLoopBackOff", "ProgressDeadlineExceeded"})
"""Reasons of failure that a database that is not ready yet explains."""
DEFERRALS_TO_TELL = 3
"""Passing failures of an act in a row after which the status names them."""
STOPPED = "the revision failed and was scaled to nothing, its database stays; a newer revision starts it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    reason: str
    message: str
    since: datetime | None = None
    """When it was first seen, where the state knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The status to apply, and whether this generation is rolled out."""

    status: dict[str, Any]
    rolled_out: RolledOut | None


def compute_status(state: OperatorState, plan: Plan) -> Verdict:
    """Return the status of the LGP in `state`, which asks for `plan`. `state.lgp` must be there."""
    lgp = state.lgp
    if lgp is None:
        raise ValueError("an LGP that was never observed has no status")
    return _Status(state, plan, lgp).compute_status()


def timestamp(at: datetime) -> str:
    """Return `at` as Kubernetes writes times: RFC 3339 in UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def current_workload(state: OperatorState, wanted: PlannedObject) -> WorkloadState | None:
    """Return the workload's state if it speaks of the object as it is asked for now, else None."""
    entry, workload = state.objects.get(str(wanted.key)), state.workloads.get(str(wanted.key))
    if entry is None or workload is None or entry.applied.digest != wanted.digest:
        return None
    print_, seen = entry.applied.fingerprint, workload.observed
    return workload if seen.uid == print_.uid and seen.generation >= print_.generation else None


class _Status:
    def __init__(self, state: OperatorState, plan: Plan, lgp: ObservedLgp) -> None:
        self.state, self.plan, self.lgp = state, plan, lgp
        self.now = timestamp(state.changed_at or datetime.min.replace(tzinfo=UTC))
        self.before: Mapping[str, dict[str, Any]] = {c["type"]: c for c in state.status.get("conditions", [])}
        self.workloads = {
            key: current_workload(state, wanted)
            for key, wanted in plan.objects.items()
            if wanted.key.kind in ("Deployment", "StatefulSet")
        }

    def compute_status(self) -> Verdict:
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
        status: dict[str, Any] = {
            "observedGeneration": self.lgp.generation,
            "conditions": conditions,
            **({"endpoint": endpoint} if endpoint else {}),
            "deploymentStatus": self._deployment_status(rolled_out),
            **self._replica_sets(rolled_out),
        }
        return Verdict(status=status, rolled_out=rolled_out)

    def _rolled_out(self, database_ready: bool) -> RolledOut | None:
        """Return what is rolled out: this generation, or still an earlier one."""
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
        """The API server's Deployment as seen last, be it as asked for or not."""
        workload = self.state.workloads.get(self.plan.server)
        return workload.observed if workload else None

    # --- problems

    def _problems(self, database_since: str | None) -> Iterator[Problem]:
        if self.plan.problem is not None:
            reason, message = self.plan.problem
            yield Problem(reason=reason, message=message)
        if (stopped := self.lgp.stopped) is not None:
            yield Problem(reason=stopped.reason, message=f"{STOPPED}. It failed with: {stopped.message}")
        yield from self._workload_problems(database_since)
        for key, rejection in self._rejections():
            if not (is_autoscaler(self.plan.objects[key].key) or is_budget(self.plan.objects[key].key)):
                yield Problem(reason=_reason(rejection), message=_told(key, rejection), since=rejection.since)
        for key, entry in self.state.objects.items():
            if entry.drift and entry.repairs > FREE_REPAIRS and key in self.plan.objects:
                message = f"{key} was put back {entry.repairs - 1} times in a row and is changed again: {entry.drift}"
                yield Problem(reason="FoughtOver", message=f"{message}; stop whoever does it (another operator?)")
        for act, hold in self.state.held.items():
            if act != "ApplyStatus" and (hold.refused or hold.attempts >= DEFERRALS_TO_TELL):
                reason = "Refused" if hold.refused else "Unreachable"
                yield Problem(reason=reason, message=f"{act}: {hold.reason}", since=hold.since)
        if self.plan.route_problem:
            yield Problem(reason="NoRoute", message=self.plan.route_problem)

    def _rejections(self) -> Iterator[tuple[str, Rejection]]:
        """Yield what the API server does not take of what is asked for now."""
        for key, rejection in self.state.rejected.items():
            wanted = self.plan.objects.get(key)
            if wanted is not None and wanted.digest == rejection.digest:
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

    def _condition(
        self, kind: str, value: bool | None, reason: str, message: str, at: str | None = None
    ) -> dict[str, Any]:
        """Return a condition; None as its value is Unknown."""
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

    def _available(self, rolled_out: RolledOut | None, problems: list[Problem]) -> dict[str, Any]:
        server = self._server
        available = server.available if server else 0
        if self._is_rolled_out(rolled_out):
            if available or (server is not None and server.desired == 0):
                return self._condition("Available", True, "RolledOut", "this generation is rolled out and available")
            return self._condition("Available", False, "NoReplicas", "no API server is available")
        reason = problems[0].reason if problems else "RollingOut"
        message = f"generation {self.lgp.generation} is not rolled out"
        if rolled_out is not None and available:
            earlier = (
                f"revision {rolled_out.revision}" if rolled_out.revision else f"generation {rolled_out.generation}"
            )
            message += f"; {earlier} keeps serving"
        return self._condition("Available", False, reason, message)

    def _progressing(
        self, rolled_out: RolledOut | None, problems: list[Problem], database: dict[str, Any]
    ) -> dict[str, Any]:
        if self._is_rolled_out(rolled_out):
            return self._condition("Progressing", False, "RolledOut", "nothing is left to roll out")
        if self.plan.problem is not None:
            return self._condition("Progressing", False, *self.plan.problem)
        if self.lgp.stopped is not None:
            return self._condition("Progressing", False, "Stopped", STOPPED)
        stuck = next((p for p in problems if p.reason == "ProgressDeadlineExceeded"), None)
        if stuck is not None:
            return self._condition("Progressing", False, stuck.reason, stuck.message)
        if database["status"] == "False":
            return self._condition("Progressing", True, "WaitingForDatabase", database["message"])
        return self._condition("Progressing", True, "RollingOut", "; ".join(self._unfinished()) or "nearly there")

    def _unfinished(self) -> Iterator[str]:
        for key, workload in self.workloads.items():
            if workload is None:
                yield f"{key} was not observed yet"
            elif not workload.observed.rolled_out:
                seen = workload.observed
                words = f"{key}: {seen.updated} of {seen.desired} replicas updated, {seen.available} available"
                yield f"{words}; {seen.unschedulable}" if seen.unschedulable else words

    def _degraded(self, problems: list[Problem]) -> dict[str, Any]:
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

    def _database(self) -> dict[str, Any]:
        if self.plan.problem is None and self.plan.database not in self.plan.objects:
            return self._condition("DatabaseReady", True, "NotManaged", "no database is made for this LGP")
        workload = self.workloads.get(self.plan.database)
        seen = workload.observed if workload else None
        if seen is not None and seen.ready >= 1:
            return self._condition("DatabaseReady", True, "Ready", f"{seen.ready} of {seen.desired} replicas ready")
        before = self.before.get("DatabaseReady")
        if workload is None and before is not None and before["status"] == "True":
            # Being written again; nobody has said that it went away.
            return self._condition("DatabaseReady", True, before["reason"], before["message"])
        why = f"; {seen.unschedulable}" if seen is not None and seen.unschedulable else ""
        return self._condition("DatabaseReady", False, "NotReady", f"Postgres is not ready yet{why}")

    def _autoscaling(self) -> Iterator[dict[str, Any]]:
        asked = {key: wanted for key, wanted in self.plan.objects.items() if is_autoscaler(wanted.key)}
        rejected = [(key, rejection) for key, rejection in self._rejections() if key in asked]
        if rejected:
            message = "\n".join(_told(key, rejection) for key, rejection in rejected)
            yield self._condition("Autoscaling", False, _reason(rejected[0][1]), message)
        elif asked and all(key in self.state.objects for key in asked):
            yield self._autoscalers_at_work(list(asked))
        elif asked:
            yield self._condition("Autoscaling", False, "Pending", f"{', '.join(asked)} are not all made yet")
        elif self.plan.problem is not None and "Autoscaling" in self.before:
            yield self.before["Autoscaling"]  # what is in the cluster stays

    def _autoscalers_at_work(self, keys: list[str]) -> dict[str, Any]:
        """Return what the autoscalers that are made say of themselves."""
        known = [self.state.autoscalers[key] for key in keys if key in self.state.autoscalers]
        unhealthy = [one.observed for one in known if one.unhealthy]
        if unhealthy:
            message = "\n".join(autoscalers.describe_problem(one.key, one.reason, one.message) for one in unhealthy)
            return self._condition("Autoscaling", False, unhealthy[0].reason, message)
        waiting = [_waited_for(one) for one in known if one.since is not None and not one.worked]
        if waiting:
            return self._condition("Autoscaling", None, "Waiting", "\n".join(waiting))
        return self._condition("Autoscaling", True, "Applied", f"{', '.join(keys)} decide on the replicas")

    def _budgets(self) -> Iterator[dict[str, Any]]:
        rejected = [one for one in self._rejections() if is_budget(self.plan.objects[one[0]].key)]
        if rejected:
            message = "\n".join(rejection.message for _, rejection in rejected)
            yield self._condition("DisruptionBudgets", False, _reason(rejected[0][1]), message)
        elif self.plan.problem is not None and "DisruptionBudgets" in self.before:
            yield self.before["DisruptionBudgets"]  # what is in the cluster stays

    def _ignored(self) -> Iterator[dict[str, Any]]:
        told = []
        if unknown := self.lgp.unknown:
            told.append(
                f"unknown to this version, and left as they are in the LGP: {', '.join(unknown)}; upgrade agentplane "
                "if a newer listener wrote them, correct them if they are misspelt"
            )
        told += [f"overridden: {field}" for field in self.plan.overridden]
        if told:
            reason = "UnknownFields" if unknown else "OverriddenFields"
            yield self._condition("IgnoredFields", True, reason, "\n".join(told))

    # --- the rest

    def _deployment_status(self, rolled_out: RolledOut | None) -> dict[str, Any]:
        status: dict[str, Any] = {}
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

    def _replica_sets(self, rolled_out: RolledOut | None) -> dict[str, Any]:
        """Return references to the ReplicaSet that was made last and to the one that was rolled out last."""
        found: dict[str, Any] = {
            name: self.state.status[name]
            for name in ("lastCreatedReplicaSet", "lastSuccessfulReplicaSet")
            if name in self.state.status
        }
        workload = self.workloads.get(self.plan.server)
        if workload is not None and workload.observed.template:
            seen = workload.observed
            reference = {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "namespace": seen.key.namespace,
                "name": seen.template,
                "uid": seen.template_uid,
            }
            found["lastCreatedReplicaSet"] = reference
            if self._is_rolled_out(rolled_out):
                found["lastSuccessfulReplicaSet"] = reference
        return found


def _failures(seen: WorkloadStatus, since: datetime | None) -> Iterator[Problem]:
    if (failure := seen.failure) is not None:
        where = f"pod {failure.pod}, container {failure.container}: " if failure.pod else ""
        message = f"{seen.key}: {where}{failure.message}"
        if failure.log:
            message += f"\nlast log lines:\n{failure.log}"
        yield Problem(reason=failure.reason, message=message, since=since)
    if seen.deadline_exceeded:
        yield Problem(reason="ProgressDeadlineExceeded", message=f"{seen.key}: {seen.deadline_exceeded}")


def _waited_for(autoscaler: AutoscalerState) -> str:
    seen = autoscaler.observed
    return f"{seen.key} does not work yet, as is usual for the first minutes ({seen.reason}: {seen.message})"


def _reason(rejection: Rejection) -> str:
    return KIND_NOT_SERVED if rejection.reason == KIND_NOT_SERVED else "ObjectRejected"


def _told(key: str, rejection: Rejection) -> str:
    if rejection.reason == KIND_NOT_SERVED:
        return rejection.message
    return f"{key} was rejected ({rejection.status} {rejection.reason}): {rejection.message}"
