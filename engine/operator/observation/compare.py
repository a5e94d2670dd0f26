"""What happens to an LGP and its objects in the cluster, as events of its stream. Pure.

`observe` is level-based: it compares all that is known of the cluster about one LGP with all that the log knows. Which
change came last makes no difference, so a change that was missed, seen twice or seen late does no harm. An observation
that equals the log is no event.

The result has two parts. *Certain* events may be appended at once. *Unconfirmed* ones may be the echo of our own write,
or come from a watch that lags behind the log; fresh reads confirm them later, while no worker advances the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine import names
from engine.event import Event
from engine.operator.events import AutoscalerObserved, AutoscalerStatus, LgpObserved, LgpRemoved
from engine.operator.observation.autoscalers import (
    HORIZONTAL,
    HORIZONTAL_API_VERSION,
    merged_problem,
    same_problem,
)
from engine.operator.observation.drift import observe_drift
from engine.operator.observation.lgp import is_news
from engine.operator.observation.observed_state import ClusterContext, ObservedState
from engine.operator.observation.scrubbing import Scrubber
from engine.operator.observation.workloads import NEEDED_FOR_WORKLOADS, observe_workloads
from engine.operator.plan import Plan
from engine.operator.state import Life, OperatorState
from engine.runtime.observation import Observation

LGP = (names.LGP_API_VERSION, names.LGP_KIND)


def observe(
    state: OperatorState, plan: Plan, observed: ObservedState, context: ClusterContext, scrubber: Scrubber
) -> Observation:
    """Return the events that `observed` adds to `state`; `plan` is what the LGP of `state` asks for."""
    certain: list[Event] = []
    unconfirmed: list[Event] = []
    lgp = _observe_lgp(state, observed, LGP in context.complete_kinds)
    if lgp is not None:
        (certain if _is_certain(lgp, state, observed) else unconfirmed).append(lgp)
    if not isinstance(lgp, LgpRemoved) and state.life is Life.PRESENT:
        if context.complete_kinds.issuperset(NEEDED_FOR_WORKLOADS):
            certain += observe_workloads(state, observed, scrubber)
        certain += _observe_autoscalers(state, observed, scrubber)
        unconfirmed += observe_drift(state, plan, observed, context)
    return Observation(certain=tuple(certain), unconfirmed=tuple(unconfirmed))


def _observe_lgp(state: OperatorState, observed: ObservedState, complete: bool) -> LgpObserved | LgpRemoved | None:
    """Return what is new about the LGP itself; `complete`: every LGP of the namespace is known."""
    if observed.lgp is not None:
        return observed.lgp if is_news(state, observed.lgp) else None
    existed = state.life in (Life.PRESENT, Life.DELETING)
    return LgpRemoved() if existed and complete else None


def _is_certain(event: LgpObserved | LgpRemoved, state: OperatorState, observed: ObservedState) -> bool:
    logged_uid = state.lgp.uid if state.lgp is not None else ""
    deletion_was_observed = logged_uid in observed.removed_uids
    if isinstance(event, LgpRemoved):
        return deletion_was_observed
    # An LGP with another uid than the log's may come from a watch that lags behind the log.
    return state.life not in (Life.PRESENT, Life.DELETING) or event.uid == logged_uid or deletion_was_observed


def _observe_autoscalers(
    state: OperatorState, observed: ObservedState, scrubber: Scrubber
) -> Iterator[AutoscalerObserved]:
    for key, entry in state.objects.items():
        applied, autoscaler = entry.applied, observed.autoscalers.get(key)
        if autoscaler is None or autoscaler.uid != applied.fingerprint.uid:
            continue  # no autoscaler, or a namesake of the one that we made
        made_by_keda = replace(
            applied.key, api_version=HORIZONTAL_API_VERSION, kind=HORIZONTAL, name=autoscaler.horizontal
        )
        reason, message = merged_problem(applied.key, autoscaler, observed.autoscalers.get(str(made_by_keda)))
        status = AutoscalerStatus(
            key=applied.key, uid=autoscaler.uid, reason=reason, message=scrubber.scrub_message(message)
        )
        known = state.autoscalers.get(key)
        if known is None or not _says_the_same(known.observed, status, autoscaler.target):
            yield AutoscalerObserved(autoscaler=status)


def _says_the_same(known: AutoscalerStatus, seen: AutoscalerStatus, target: str) -> bool:
    if known.uid != seen.uid:
        return False
    return same_problem((known.reason, known.message), (seen.reason, seen.message), target)
