"""How the Deployments and StatefulSets of an LGP are, and why their pods fail. Pure.

Only pods of the workload's newest template count; pods of older templates are on their way out. A failure that the log
knows already stays as the log has it for as long as it lasts, so that it is reported once.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.operator.events import PodFailure, WorkloadObserved, WorkloadStatus
from engine.operator.observation.objects import ObservedPod, ObservedReplicaSet, ObservedWorkload
from engine.operator.observation.observed_state import ObservedState
from engine.operator.observation.scrubbing import Scrubber
from engine.operator.state import OperatorState

NEEDED_FOR_WORKLOADS = frozenset({("apps/v1", "ReplicaSet"), ("v1", "Pod")})
"""Kinds of which every object must be known before a workload's status can be computed."""


def observe_workloads(state: OperatorState, observed: ObservedState, scrubber: Scrubber) -> Iterator[WorkloadObserved]:
    """Yield the status of each workload that differs from what the log knows of it."""
    for key, workload in observed.workloads.items():
        if key not in state.objects or workload.observed_generation < workload.generation:
            continue  # not (yet) ours; or its controller has not seen its spec yet, and its status is of an older one
        known = state.workloads.get(key)
        status = _status(workload, observed, known.observed if known else None, scrubber)
        if known is None or known.observed != status:
            yield WorkloadObserved(workload=status)


def _status(
    workload: ObservedWorkload, observed: ObservedState, known: WorkloadStatus | None, scrubber: Scrubber
) -> WorkloadStatus:
    newest = _newest_replica_set(workload, observed)
    template = newest.name if newest else workload.update_revision
    pods = [pod for pod in observed.pods.values() if _has_newest_template(pod, workload, newest)]
    before = known if known is not None and known.template == template else None
    unschedulable = (pod.unschedulable for pod in sorted(pods, key=lambda pod: pod.name) if pod.unschedulable)
    return WorkloadStatus(
        key=workload.key,
        uid=workload.uid,
        generation=workload.generation,
        observed_generation=workload.observed_generation,
        desired=workload.desired,
        replicas=workload.replicas,
        ready=workload.ready,
        updated=workload.updated,
        available=workload.available,
        template=template,
        template_uid=newest.uid if newest else "",
        deadline_exceeded=scrubber.scrub_message(workload.deadline_exceeded),
        unschedulable=scrubber.scrub_message(next(unschedulable, "")),
        failure=_failure(workload, pods, before.failure if before else None, scrubber),
    )


def _newest_replica_set(workload: ObservedWorkload, observed: ObservedState) -> ObservedReplicaSet | None:
    """Return the ReplicaSet of the Deployment's present template; None for a StatefulSet, or before it is made."""
    for replica_set in observed.replica_sets.values():
        if replica_set.owner == workload.uid and replica_set.template == workload.template:
            return replica_set
    return None


def _has_newest_template(pod: ObservedPod, workload: ObservedWorkload, newest: ObservedReplicaSet | None) -> bool:
    if newest is not None:
        return pod.owner == newest.uid
    return pod.owner == workload.uid and (
        not workload.update_revision or pod.revision in ("", workload.update_revision)
    )


def _failure(
    workload: ObservedWorkload, pods: list[ObservedPod], known: PodFailure | None, scrubber: Scrubber
) -> PodFailure | None:
    """Return why the pods fail: the `known` failure while it lasts, else that of the first failing pod by name."""
    failures = {pod.name: (pod, pod.failure) for pod in pods if pod.failure is not None}
    if known is not None and known.pod in failures:
        _, raw = failures[known.pod]
        same = (raw.container, raw.reason) == (known.container, known.reason)
        if same and (known.log or not raw.log):
            return known
    if failures:
        pod, raw = failures[min(failures)]
        return PodFailure(
            pod=pod.name,
            container=raw.container,
            reason=raw.reason,
            message=scrubber.scrub_message(raw.message, pod.secrets),
            log=scrubber.scrub_log(raw.log, pod.secrets),
        )
    if workload.cannot_create:
        message = scrubber.scrub_message(workload.cannot_create)
        return PodFailure(pod="", container="", reason="FailedCreate", message=message)
    return None
