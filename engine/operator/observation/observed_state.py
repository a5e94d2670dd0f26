"""Everything that is known of the cluster about one LGP, and what is known of its surroundings. Values only.

The observer fills these values from lists and watches; `compare`, `drift` and `workloads` read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.kubernetes.fingerprint import Fingerprint
from engine.operator.events import LgpObserved
from engine.operator.observation.autoscalers import ObservedAutoscaler
from engine.operator.observation.objects import Backend, HostPath, ObservedPod, ObservedReplicaSet, ObservedWorkload
from engine.ports import JsonObject

Kind = tuple[str, str]
"""apiVersion and kind."""


@dataclass(slots=True, kw_only=True)
class ObservedState:
    """What is known of the cluster about one LGP."""

    lgp: LgpObserved | None = None
    removed_uids: set[str] = field(default_factory=set)
    """uids of LGPs of this name whose deletion was observed."""
    objects: dict[str, Fingerprint] = field(default_factory=dict)
    """By `str(key)`."""
    writers: dict[str, str] = field(default_factory=dict)
    """By `str(key)`: the other field manager that wrote the object last."""
    workloads: dict[str, ObservedWorkload] = field(default_factory=dict)
    """By `str(key)`."""
    replica_sets: dict[str, ObservedReplicaSet] = field(default_factory=dict)
    """By uid."""
    pods: dict[str, ObservedPod] = field(default_factory=dict)
    """By uid."""
    autoscalers: dict[str, ObservedAutoscaler] = field(default_factory=dict)
    """By `str(key)`; HorizontalPodAutoscalers that KEDA makes of ScaledObjects too."""

    def forget_object(self, key: str) -> None:
        """Forget an object that no longer exists."""
        self.objects.pop(key, None)
        self.writers.pop(key, None)
        self.workloads.pop(key, None)
        self.autoscalers.pop(key, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterContext:
    """What is known of the cluster beyond one LGP."""

    complete_kinds: frozenset[Kind]
    """Kinds of which every object in the LGP's namespace is known."""
    credentials: frozenset[str] = frozenset()
    """Secrets of ours in the namespace, by `str(key)`: several LGPs may share a password."""
    paths: Mapping[HostPath, Backend] | None = None
    """Routes of the shared Ingress; None until it is known which there are."""
    has_shared_ingress: bool = False
    external_services_complete: bool = False
    """Every Service beside a shared Ingress in another namespace is known."""
    budget_selectors: Mapping[str, JsonObject | None] | None = None
    """Selectors of all PodDisruptionBudgets in the LGP's namespace, ours or not, by name; None until they are known."""
