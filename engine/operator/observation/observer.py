"""The operator's observer: its memory of the watched objects, and the few fresh reads that comparisons need.

Everything here can be rebuilt from lists and watches. One thread uses the observer, that of the observation loop
(`engine/runtime/observation_loop.py`). Which kinds are watched is in `watches`, the pure comparison in `compare`.

Objects are filed under the LGP that they belong to (LgpRef): by the label that every object of an LGP carries, else by
their owner reference. The observer reads afresh: Secrets, to scrub crash messages, and objects of which an unconfirmed
drift is to be confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from engine import names
from engine.agent_path import lgp_of_path
from engine.event import Event
from engine.kubernetes.managed_fields import last_writer
from engine.operator import manifests
from engine.operator.events import DriftDetected, LgpObserved, LgpRemoved
from engine.operator.machine import OperatorMachine
from engine.operator.observation import watches
from engine.operator.observation.autoscalers import observe_autoscaler
from engine.operator.observation.compare import observe
from engine.operator.observation.ingresses import SharedIngresses
from engine.operator.observation.lgp import observe_lgp
from engine.operator.observation.objects import (
    observe_pod,
    observe_replica_set,
    observe_workload,
    own_fingerprint,
    owner_label,
)
from engine.operator.observation.observed_state import ClusterContext, Kind, ObservedState
from engine.operator.observation.scrubbing import Scrubber, hidden_values
from engine.operator.observation.unlabelled import UnlabelledObjects
from engine.operator.observation.watches import (
    BUDGETS,
    EXTERNAL_SERVICES,
    INGRESSES,
    UNLABELLED,
    WORKLOAD_KINDS,
    watch_of_lgp_objects,
)
from engine.operator.plan import INGRESS_PATH_KIND
from engine.operator.scaling import is_autoscaler
from engine.operator.state import Life, OperatorState
from engine.ports import Cluster, JsonObject, Manifest, ObjectKey, lgp_key
from engine.runtime.observation import AT_ONCE, LGPS, SOON, Affected, Observation, Watch


class LgpRef(NamedTuple):
    """What the objects of an LGP are filed under."""

    namespace: str
    label: str
    """Value of LGP_LABEL: the LGP's name, shortened where it is no label value."""


class OperatorObserver:
    """Observes LGPs and their objects."""

    def __init__(
        self, machine: OperatorMachine, cluster: Cluster, digest: Callable[[bytes], str], *, listener_id: str = ""
    ) -> None:
        """`digest` is keyed. With a `listener_id`, LGPs that do not carry it are ignored."""
        self.machine = machine
        self._listener_id = listener_id
        self._cluster = cluster
        self._digest = digest
        self._observed: dict[LgpRef, ObservedState] = {}
        self._names: dict[LgpRef, str] = {}
        """→ name of the LGP."""
        self._hidden: dict[LgpRef, tuple[str, ...]] = {}
        """→ literal values of the LGP that the log may not hold."""
        self._complete: set[tuple[str, Kind]] = set()
        """Namespace and kind of which every object is known."""
        self._external_services_complete = False
        self._ingresses = SharedIngresses()
        self._secrets: dict[str, set[str]] = {}
        """Namespace → keys of our Secrets."""
        self._budgets: dict[str, dict[str, JsonObject | None]] = {}
        """Namespace → name of a PodDisruptionBudget → its selector."""
        self._unlabelled = UnlabelledObjects()
        self._workloads: dict[str, LgpRef] = {}
        """uid of a workload → its LGP."""

    # --- what is watched

    def watches(self) -> tuple[Watch, ...]:
        return watches.usual_watches(self.machine.config)

    def external_watches(self) -> tuple[tuple[Watch, str], ...]:
        return watches.external_watches(self.machine.config)

    def extra_watches(self, state: OperatorState) -> Iterator[tuple[Watch, str]]:
        return watches.extra_watches(state, self.machine.plan(state))

    # --- changes

    def on_change(self, watch: Watch, namespace: str, manifest: Manifest, *, exists: bool) -> Affected:
        if watch == LGPS:
            return self._on_lgp(namespace, manifest, exists)
        if watch == INGRESSES:
            return self._on_ingress(namespace, manifest, exists)
        if watch == EXTERNAL_SERVICES:
            return self._on_external_service(manifest, exists)
        if watch == BUDGETS:
            return self._on_budget(namespace, manifest, exists)
        if watch in UNLABELLED:
            workload = self._unlabelled.on_change(watch.kind, namespace, manifest, exists=exists)
            return self._stream_of(self._workloads.get(workload))
        if watch.kind == "Secret":
            self._on_secret(namespace, manifest, exists)
        return self._on_labelled(watch.kind, namespace, manifest, exists)

    def _on_lgp(self, namespace: str, manifest: Manifest, exists: bool) -> Affected:
        metadata = manifest["metadata"]
        labels = metadata.get("labels") or {}
        if self._listener_id and labels.get(names.LISTENER_LABEL) != self._listener_id:
            return ()
        name = metadata["name"]
        lgp = _ref(namespace, name)
        self._names[lgp] = name
        observed = self._state_of(lgp)
        if exists:
            observed.lgp = observe_lgp(manifest, self._digest)
            self._hidden[lgp] = tuple(hidden_values(manifest.get("spec") or {}, observed.lgp.spec))
        else:
            observed.lgp = None
            observed.removed_uids = {metadata["uid"]}
            self._hidden.pop(lgp, None)
        return [(names.lgp_stream(namespace, name), AT_ONCE)]

    def _on_labelled(self, kind: str, namespace: str, manifest: Manifest, exists: bool) -> Affected:
        label = owner_label(manifest)
        if label is None:
            # A Secret that several LGPs may share: its disappearance concerns them all.
            return () if exists else self._streams_in(namespace)
        lgp = LgpRef(namespace, label)
        self._on_object(kind, self._state_of(lgp), manifest, exists)
        if kind in WORKLOAD_KINDS:
            self._workloads[manifest["metadata"]["uid"]] = lgp
        return self._stream_of(lgp)

    def _on_object(self, kind: str, observed: ObservedState, manifest: Manifest, exists: bool) -> None:
        uid, key = manifest["metadata"]["uid"], ObjectKey.of(manifest)
        match kind, exists:
            case "Pod", True:
                observed.pods[uid] = observe_pod(manifest)
            case "Pod", False:
                observed.pods.pop(uid, None)
            case "ReplicaSet", True:
                observed.replica_sets[uid] = observe_replica_set(manifest)
            case "ReplicaSet", False:
                observed.replica_sets.pop(uid, None)
            case _, True:
                observed.objects[str(key)] = own_fingerprint(manifest)
                observed.writers[str(key)] = last_writer(manifest, names.OPERATOR_MANAGER)
                if kind in WORKLOAD_KINDS:
                    observed.workloads[str(key)] = observe_workload(manifest)
                if is_autoscaler(key):
                    observed.autoscalers[str(key)] = observe_autoscaler(manifest)
            case _:
                observed.forget_object(str(key))

    def _on_external_service(self, manifest: Manifest, exists: bool) -> Affected:
        labels = manifest["metadata"].get("labels") or {}
        lgp = LgpRef(labels.get(names.LGP_NAMESPACE_LABEL, ""), labels.get(names.LGP_LABEL, ""))
        self._on_object("Service", self._state_of(lgp), manifest, exists)
        return self._stream_of(lgp)

    def _on_budget(self, namespace: str, manifest: Manifest, exists: bool) -> Affected:
        """A changed selector affects every LGP of the namespace, since it may select their pods; else only the LGP
        that has the budget is affected.
        """
        label = owner_label(manifest)
        lgp = None if label is None else LgpRef(namespace, label)
        if lgp is not None:
            self._on_object(BUDGETS.kind, self._state_of(lgp), manifest, exists)
        selectors = self._budgets.setdefault(namespace, {})
        name, selector = manifest["metadata"]["name"], (manifest.get("spec") or {}).get("selector")
        before = name in selectors, selectors.pop(name, None)
        if exists:
            selectors[name] = selector
        changed = before != (exists, selector if exists else None)
        return self._streams_in(namespace) if changed else self._stream_of(lgp)

    def _on_secret(self, namespace: str, manifest: Manifest, exists: bool) -> None:
        keys = self._secrets.setdefault(namespace, set())
        (keys.add if exists else keys.discard)(str(ObjectKey.of(manifest)))

    def _on_ingress(self, namespace: str, manifest: Manifest, exists: bool) -> Affected:
        """The LGPs whose entries changed are affected; all of them when a shared Ingress came or went."""
        changed = self._ingresses.on_change(namespace, manifest, exists=exists)
        if changed is None:
            return self._streams_behind_ingress(namespace)
        lgps = {lgp_of_path(path) for _, path in changed}
        return self._streams(
            lgp for lgp, name in self._names.items() if name in lgps and self._ingress_namespace(lgp) == namespace
        )

    def on_synced(self, watch: Watch, namespace: str, streams: Callable[[str], list[str]]) -> Affected:
        if watch == EXTERNAL_SERVICES:
            self._external_services_complete = True
            return self._streams_behind_ingress(namespace)
        if watch in UNLABELLED:
            return self._streams_in(namespace)
        self._complete.add((namespace, (watch.api_version, watch.kind)))
        if watch == LGPS:
            for stream in streams(names.lgp_stream(namespace, "")):
                _, name = _lgp_of(stream)
                self._names.setdefault(_ref(namespace, name), name)
        return self._streams_behind_ingress(namespace) if watch == INGRESSES else self._streams_in(namespace)

    # --- which streams are affected

    def _streams(self, lgps: Iterable[LgpRef]) -> Affected:
        return [(names.lgp_stream(lgp.namespace, self._names[lgp]), SOON) for lgp in lgps]

    def _stream_of(self, lgp: LgpRef | None) -> Affected:
        return self._streams([lgp] if lgp is not None and lgp in self._names else ())

    def _streams_in(self, namespace: str) -> Affected:
        return self._streams(lgp for lgp in self._names if lgp.namespace == namespace)

    def _streams_behind_ingress(self, namespace: str) -> Affected:
        """Return the streams of the LGPs whose shared Ingress is in `namespace`."""
        return self._streams(lgp for lgp in self._names if self._ingress_namespace(lgp) == namespace)

    def _ingress_namespace(self, lgp: LgpRef) -> str:
        """Return the namespace of the shared Ingress that an LGP hangs on."""
        return self.machine.config.ingress.namespace or lgp.namespace

    # --- comparing

    def observe(self, stream: str, state: OperatorState) -> Observation:
        lgp = _ref(*_lgp_of(stream))
        observed = self._observed.get(lgp) or ObservedState()
        scrubber = Scrubber(
            lambda name: self._read_secret(lgp.namespace, name),
            self._hidden.get(lgp, ()),
            lgp_exists=observed.lgp is not None,
        )
        whole = self._unlabelled.added_to(lgp.namespace, observed)
        found = observe(state, self.machine.plan(state), whole, self._context(lgp), scrubber)
        is_gone = state.life is Life.PRUNED and observed == ObservedState(removed_uids=observed.removed_uids)
        if is_gone and not found.certain:
            self._forget(lgp)
        return found

    def _read_secret(self, namespace: str, name: str) -> Manifest | None:
        return self._cluster.get(ObjectKey(api_version="v1", kind="Secret", namespace=namespace, name=name))

    def _context(self, lgp: LgpRef) -> ClusterContext:
        ingress = self._ingress_namespace(lgp)
        paths = self._ingresses.paths(ingress)
        ingresses_complete = (ingress, (INGRESSES.api_version, INGRESSES.kind)) in self._complete
        budgets_complete = (lgp.namespace, names.BUDGET) in self._complete
        return ClusterContext(
            complete_kinds=frozenset(kind for namespace, kind in self._complete if namespace == lgp.namespace),
            credentials=frozenset(self._secrets.get(lgp.namespace, ())),
            paths=paths or {} if ingresses_complete else None,
            has_shared_ingress=paths is not None,
            external_services_complete=self._external_services_complete,
            budget_selectors=self._budgets.get(lgp.namespace, {}) if budgets_complete else None,
        )

    def _state_of(self, lgp: LgpRef) -> ObservedState:
        """Return what is known of an LGP, to be changed."""
        return self._observed.setdefault(lgp, ObservedState())

    def _forget(self, lgp: LgpRef) -> None:
        self._observed.pop(lgp, None)
        self._names.pop(lgp, None)
        self._hidden.pop(lgp, None)

    # --- confirming by fresh reads

    def confirm(self, stream: str, state: OperatorState, unconfirmed: Iterable[Event]) -> None:
        namespace, name = _lgp_of(stream)
        lgp = _ref(namespace, name)
        for event in unconfirmed:
            match event:
                case LgpRemoved() | LgpObserved():
                    self._confirm_lgp(lgp_key(namespace, name), state.lgp.uid if state.lgp else "")
                case DriftDetected() if event.key.kind == INGRESS_PATH_KIND:
                    self._read_all(INGRESSES, event.key.namespace)
                case DriftDetected() if (event.key.api_version, event.key.kind) == names.BUDGET:
                    self._confirm_object(BUDGETS, event.key, lgp)
                    self._read_all(BUDGETS, namespace)
                case DriftDetected():
                    self._confirm_drift(event.key, state, lgp)

    def _confirm_lgp(self, key: ObjectKey, logged_uid: str) -> None:
        manifest = self._cluster.get(key)
        if manifest is not None:
            self.on_change(LGPS, key.namespace, manifest, exists=True)
            return
        observed = self._observed.get(_ref(key.namespace, key.name))
        if observed is not None:
            observed.lgp, observed.removed_uids = None, {logged_uid}

    def _confirm_drift(self, key: ObjectKey, state: OperatorState, lgp: LgpRef) -> None:
        if str(key) in state.rejected and not self._cluster.served(key.api_version, key.kind):
            # The kind was served before. It is complete again with the list that its watch begins with.
            self._complete.discard((key.namespace, (key.api_version, key.kind)))
            return
        beside_lgp = key.namespace == lgp.namespace
        watch = watch_of_lgp_objects(key.api_version, key.kind) if beside_lgp else EXTERNAL_SERVICES
        self._confirm_object(watch, key, lgp)

    def _confirm_object(self, watch: Watch, key: ObjectKey, lgp: LgpRef) -> None:
        """Read an object of `lgp`, which the object need not name any more."""
        manifest = self._cluster.get(key)
        if manifest is None:
            self._secrets.get(key.namespace, set()).discard(str(key))
            for observed in self._observed.values():
                observed.forget_object(str(key))
        elif watch.kind != "Secret" and owner_label(manifest) is None:
            self._on_object(watch.kind, self._state_of(lgp), manifest, exists=True)
        else:
            self.on_change(watch, key.namespace, manifest, exists=True)

    def _read_all(self, watch: Watch, namespace: str) -> None:
        for manifest in self._cluster.list(watch.api_version, watch.kind, namespace):
            self.on_change(watch, namespace, manifest, exists=True)


def _ref(namespace: str, name: str) -> LgpRef:
    return LgpRef(namespace, manifests.label_value(name))


def _lgp_of(stream: str) -> tuple[str, str]:
    """Return namespace and name of the LGP of a stream `lgp/<namespace>/<name>`."""
    namespace, _, name = stream.partition("/")[2].partition("/")
    return namespace, name
