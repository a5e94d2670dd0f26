"""What each component sees of the cluster: which kinds it watches, what it keeps of them, and which events that makes.

A view is a projection that can be rebuilt from lists and watches. It is used by one thread, the watcher's core. The
pure comparisons are `engine/operator/observation/compare.py` and `engine/listener/observation/compare.py`; here is
the memory they need,
and the few reads they ask for: Secrets to scrub crash logs with, and objects to confirm a suspicion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from engine import names
from engine.errors import ObjectRefused
from engine.event import Event
from engine.kubernetes.managed_fields import last_writer
from engine.operator import manifests
from engine.operator.events import DriftDetected, LgpObserved, LgpRemoved
from engine.operator.machine import OperatorMachine
from engine.operator.observation import autoscalers
from engine.operator.observation import compare as operator_watching
from engine.operator.observation.compare import ClusterContext, ObservedState
from engine.operator.observation.lgp import observe_lgp
from engine.operator.observation.objects import (
    Backend,
    Entry,
    ObservedPod,
    ObservedReplicaSet,
    observe_pod,
    observe_replica_set,
    observe_routes,
    observe_workload,
    own_fingerprint,
    owner_label,
)
from engine.operator.observation.scrubbing import hidden_values, scrub, secret_values
from engine.operator.plan import INGRESS_API_VERSION, ROUTE_KIND
from engine.operator.scaling import KIND_NOT_SERVED
from engine.operator.state import Life, OperatorState
from engine.ports import Cluster, Manifest, ObjectKey, lgp_key
from engine.runtime.observation import AT_ONCE, LGPS, SECRETS, SOON, Observation, Streams, Watch

INGRESSES = Watch(api_version=INGRESS_API_VERSION, kind="Ingress")
EXTERNAL_SERVICES = Watch(api_version="v1", kind="Service", labels=names.LGP_NAMESPACE_LABEL)
"""Services beside a shared Ingress in another namespace than the LGPs'."""
WORKLOADS = ("Deployment", "StatefulSet")

BUDGETS = Watch(api_version=names.BUDGET[0], kind=names.BUDGET[1])
"""All of them, whoever made them: a pod of two budgets cannot be evicted."""

UNLABELLED = tuple(
    Watch(api_version=api_version, kind=kind, labels=f"!{names.LGP_LABEL}")
    for api_version, kind in (("apps/v1", "ReplicaSet"), ("v1", "Pod"))
)
"""Those that carry no label of ours: of workloads that were taken over with their pods."""


def of_lgps(api_version: str, kind: str) -> Watch:
    """Return the watch of one kind of LGPs' objects."""
    return Watch(api_version=api_version, kind=kind, labels=names.LGP_LABEL)


# --- operator


class OperatorObserver:
    """LGPs and their objects."""

    def __init__(
        self, machine: OperatorMachine, cluster: Cluster, digest: Callable[[bytes], str], *, own: str = ""
    ) -> None:
        """`own` is a listener's id: LGPs that carry another, or none, are not seen. Empty: all are."""
        self.machine = machine
        self._own = own
        self._cluster = cluster
        self._digest = digest
        self._live: dict[tuple[str, str], ObservedState] = {}
        """By namespace and label value of the LGP."""
        self._names: dict[tuple[str, str], str] = {}
        """The same → name of the LGP."""
        self._hidden: dict[tuple[str, str], tuple[str, ...]] = {}
        """The same → literal values that the log may not hold."""
        self._complete: set[tuple[str, str, str]] = set()
        """Namespace, apiVersion and kind whose list is known whole."""
        self._ingresses: dict[str, dict[str, dict[Entry, Backend]]] = {}
        """Namespace → name of a shared Ingress → its routes."""
        self._secrets: dict[str, set[str]] = {}
        """Namespace → keys of our Secrets."""
        self._budgets: dict[str, dict[str, Any]] = {}
        """Namespace → name of a PodDisruptionBudget → its selector."""
        self._external_services = False
        """Whether every one of them is known."""
        self._unlabelled: dict[tuple[str, str], dict[str, ObservedPod | ObservedReplicaSet]] = {}
        """Namespace and uid of its controller → what carries no label of ours, by uid."""
        self._unlabelled_sets: dict[str, str] = {}
        """uid of such a ReplicaSet → uid of its controller."""
        self._workloads: dict[str, tuple[str, str]] = {}
        """uid of a workload → namespace and label value of its LGP."""

    def watches(self) -> tuple[Watch, ...]:
        kinds = (*((("apps/v1", kind)) for kind in (*WORKLOADS, "ReplicaSet")), ("v1", "Service"), ("v1", "Pod"))
        ingress = self.machine.config.ingress
        routed = (INGRESSES,) if ingress.enabled and not ingress.namespace else ()
        budgets = (BUDGETS,) if self.machine.config.pod_disruption_budgets else ()
        return (LGPS, SECRETS, *routed, *budgets, *(of_lgps(*kind) for kind in kinds))

    def external_watches(self) -> tuple[tuple[Watch, str], ...]:
        ingress = self.machine.config.ingress
        if not (ingress.enabled and ingress.namespace):
            return ()
        return (INGRESSES, ingress.namespace), (EXTERNAL_SERVICES, ingress.namespace)

    def on_change(self, watched: Watch, namespace: str, manifest: Manifest, *, there: bool) -> Streams:
        match watched.kind:
            case "LGP":
                return self._on_lgp(namespace, manifest, there)
            case "Ingress":
                return self._on_ingress(namespace, manifest, there)
        if watched == EXTERNAL_SERVICES:
            return self._on_external_service(manifest, there)
        if watched == BUDGETS:
            return self._on_budget(namespace, manifest, there)
        if watched in UNLABELLED:
            return self._on_unlabelled(watched.kind, namespace, manifest, there)
        if watched.kind == "Secret":
            self._on_secret(namespace, manifest, there)
        label = owner_label(manifest)
        if label is None:
            # A Secret that several LGPs may share: its disappearance concerns them all.
            return () if there else [(stream, SOON) for stream in self._streams_in(namespace)]
        self._on_object(watched.kind, self._live.setdefault((namespace, label), ObservedState()), manifest, there)
        if watched.kind in WORKLOADS:
            self._workloads[manifest["metadata"]["uid"]] = (namespace, label)
        return self._stream_at((namespace, label))

    def _stream_at(self, at: tuple[str, str] | None) -> Streams:
        name = self._names.get(at) if at is not None else None
        return [(names.lgp_stream(at[0], name), SOON)] if at is not None and name is not None else ()

    def _on_unlabelled(self, kind: str, namespace: str, manifest: Manifest, there: bool) -> Streams:
        seen = observe_pod(manifest) if kind == "Pod" else observe_replica_set(manifest)
        siblings = self._unlabelled.setdefault((namespace, seen.owner), {})
        if there:
            siblings[seen.uid] = seen
        else:
            siblings.pop(seen.uid, None)
        if isinstance(seen, ObservedReplicaSet):
            self._unlabelled_sets[seen.uid] = seen.owner
        controller = self._unlabelled_sets.get(seen.owner, seen.owner)
        return self._stream_at(self._workloads.get(controller))

    def _on_lgp(self, namespace: str, manifest: Manifest, there: bool) -> Streams:
        metadata = manifest["metadata"]
        if self._own and (metadata.get("labels") or {}).get(names.LISTENER_LABEL) != self._own:
            return ()
        name = metadata["name"]
        at = (namespace, manifests.label_value(name))
        self._names[at] = name
        live = self._live.setdefault(at, ObservedState())
        if there:
            live.lgp = observe_lgp(manifest, self._digest)
            self._hidden[at] = tuple(hidden_values(manifest.get("spec") or {}, live.lgp.spec))
        else:
            live.lgp = None
            live.removed = {metadata["uid"]}
            self._hidden.pop(at, None)
        return [(names.lgp_stream(namespace, name), AT_ONCE)]

    def _on_object(self, kind: str, live: ObservedState, manifest: Manifest, there: bool) -> None:
        uid, key = manifest["metadata"]["uid"], str(ObjectKey.of(manifest))
        match kind, there:
            case "Pod", True:
                live.pods[uid] = observe_pod(manifest)
            case "Pod", False:
                live.pods.pop(uid, None)
            case "ReplicaSet", True:
                live.replica_sets[uid] = observe_replica_set(manifest)
            case "ReplicaSet", False:
                live.replica_sets.pop(uid, None)
            case _, True:
                live.objects[key] = own_fingerprint(manifest)
                live.writers[key] = last_writer(manifest, names.OPERATOR_MANAGER)
                if kind in WORKLOADS:
                    live.workloads[key] = observe_workload(manifest)
                if autoscalers.is_watched(kind):
                    live.autoscalers[key] = autoscalers.observe_autoscaler(manifest)
            case _:
                live.objects.pop(key, None)
                live.writers.pop(key, None)
                live.workloads.pop(key, None)
                live.autoscalers.pop(key, None)

    def _on_external_service(self, manifest: Manifest, there: bool) -> Streams:
        labels = manifest["metadata"].get("labels") or {}
        at = (labels.get(names.LGP_NAMESPACE_LABEL, ""), labels.get(names.LGP_LABEL, ""))
        self._on_object("Service", self._live.setdefault(at, ObservedState()), manifest, there)
        name = self._names.get(at)
        return [(names.lgp_stream(at[0], name), SOON)] if name is not None else ()

    def _on_budget(self, namespace: str, manifest: Manifest, there: bool) -> Streams:
        """Return the stream of the LGP that has the budget; of every LGP when another selector may be over its pods."""
        label = owner_label(manifest)
        if label is not None:
            self._on_object(BUDGETS.kind, self._live.setdefault((namespace, label), ObservedState()), manifest, there)
        selectors = self._budgets.setdefault(namespace, {})
        name, selector = manifest["metadata"]["name"], (manifest.get("spec") or {}).get("selector")
        before = name in selectors, selectors.pop(name, None)
        if there:
            selectors[name] = selector
        if before != (there, selector if there else None):
            return [(stream, SOON) for stream in self._streams_in(namespace)]
        return self._stream_at((namespace, label)) if label is not None else ()

    def _on_secret(self, namespace: str, manifest: Manifest, there: bool) -> None:
        keys = self._secrets.setdefault(namespace, set())
        (keys.add if there else keys.discard)(str(ObjectKey.of(manifest)))

    def _on_ingress(self, namespace: str, manifest: Manifest, there: bool) -> Streams:
        """Return the streams whose entry on the shared Ingress is not what it was."""
        before, had = self._routes(namespace)
        ingresses = self._ingresses.setdefault(namespace, {})
        if there and manifests.is_shared_ingress(manifest):
            ingresses[manifest["metadata"]["name"]] = observe_routes(manifest)
        else:
            ingresses.pop(manifest["metadata"]["name"], None)
        after, has = self._routes(namespace)
        streams = self._streams_behind(namespace)
        if had != has:
            return [(stream, SOON) for stream in streams]
        changed = {entry for entry in before.keys() | after.keys() if before.get(entry) != after.get(entry)}
        ends = {path.rpartition("/")[2] for _, path in changed}
        return [(stream, SOON) for stream in streams if stream.rpartition("/")[2] in ends]

    def _ingress_of(self, namespace: str) -> str:
        """Return where the shared Ingress of LGPs in `namespace` is."""
        return self.machine.config.ingress.namespace or namespace

    def _streams_behind(self, ingress_namespace: str) -> list[str]:
        """Return the streams of the LGPs whose shared Ingress is there."""
        known = ((there, name) for (there, _), name in self._names.items())
        return [names.lgp_stream(*at) for at in known if self._ingress_of(at[0]) == ingress_namespace]

    def _routes(self, namespace: str) -> tuple[dict[Entry, Backend], bool]:
        """Return the routes of the shared Ingress that acts would choose, and whether there is one."""
        ingresses = self._ingresses.get(namespace, {})
        return (ingresses[min(ingresses)], True) if ingresses else ({}, False)

    def _streams_in(self, namespace: str) -> list[str]:
        return [names.lgp_stream(there, name) for (there, _), name in self._names.items() if there == namespace]

    def on_synced(self, watched: Watch, namespace: str, streams: Callable[[str], list[str]]) -> Streams:
        if watched == EXTERNAL_SERVICES:
            self._external_services = True
            return [(stream, SOON) for stream in self._streams_behind(namespace)]
        if watched in UNLABELLED:
            return [(stream, SOON) for stream in self._streams_in(namespace)]
        self._complete.add((namespace, watched.api_version, watched.kind))
        if watched == LGPS:
            for stream in streams(names.lgp_stream(namespace, "")):
                name = stream.rpartition("/")[2]
                self._names.setdefault((namespace, manifests.label_value(name)), name)
        if watched == INGRESSES:
            return [(stream, SOON) for stream in self._streams_behind(namespace)]
        return [(stream, SOON) for stream in self._streams_in(namespace)]

    def extra_watches(self, state: OperatorState) -> Iterator[tuple[Watch, str]]:
        plan = self.machine.plan(state)
        for name, entry in state.objects.items():
            key = entry.applied.key
            # What is no longer asked for cannot drift, and the right to watch its kind may be gone.
            if key.kind in (ROUTE_KIND, "Secret", BUDGETS.kind) or name not in plan.objects:
                continue
            yield of_lgps(key.api_version, key.kind), key.namespace
            if key.kind == autoscalers.SCALED_OBJECT:
                yield of_lgps(autoscalers.HORIZONTAL_API_VERSION, autoscalers.HORIZONTAL), key.namespace
        for held in plan.held:
            yield from ((strays, plan.objects[held].key.namespace) for strays in UNLABELLED)
        for name, rejection in state.rejected.items():
            if rejection.reason == KIND_NOT_SERVED and name in plan.objects:
                key = plan.objects[name].key  # its watch begins once the kind is served
                yield of_lgps(key.api_version, key.kind), key.namespace

    def observe(self, stream: str, state: OperatorState) -> Observation:
        at = _place(stream)
        live = self._live.get(at) or ObservedState()
        plan = self.machine.plan(state)
        lgp_kind = (LGPS.api_version, LGPS.kind)
        whole = self._with_unlabelled(at[0], live)
        seen = operator_watching.observe(state, plan, whole, self._context(at[0]), lgp_kind, _Scrubber(self, at, live))
        if state.life is Life.PRUNED and live == ObservedState(removed=live.removed) and not seen.certain:
            for memory in (self._live, self._names, self._hidden):
                memory.pop(at, None)
        return seen

    def _with_unlabelled(self, namespace: str, live: ObservedState) -> ObservedState:
        """Return `live` with what carries no label of ours but belongs to its workloads."""
        if not self._unlabelled:
            return live

        def owned(owners: Iterable[str], kind: type[Any]) -> dict[str, Any]:
            found = (self._unlabelled.get((namespace, uid), {}) for uid in owners)
            return {uid: one for some in found for uid, one in some.items() if isinstance(one, kind)}

        workloads = [sight.uid for sight in live.workloads.values()]
        replica_sets = {**live.replica_sets, **owned(workloads, ObservedReplicaSet)}
        pods = {**live.pods, **owned((*workloads, *replica_sets), ObservedPod)}
        return replace(live, replica_sets=replica_sets, pods=pods)

    def _context(self, namespace: str) -> ClusterContext:
        home = self._ingress_of(namespace)
        routes, shared = self._routes(home)
        return ClusterContext(
            complete=frozenset((version, kind) for there, version, kind in self._complete if there == namespace),
            credentials=frozenset(self._secrets.get(namespace, ())),
            routes=routes if (home, INGRESSES.api_version, INGRESSES.kind) in self._complete else None,
            shared_ingress=shared,
            external_services=self._external_services,
            budgets=self._budgets.get(namespace, {}) if (namespace, *names.BUDGET) in self._complete else None,
        )

    def confirm(self, stream: str, state: OperatorState, unconfirmed: Iterable[Event]) -> None:
        namespace, _, name = stream.removeprefix(self.machine.stream_prefix).partition("/")
        for event in unconfirmed:
            if isinstance(event, LgpRemoved | LgpObserved):
                self._read(LGPS, lgp_key(namespace, name), state.lgp.uid if state.lgp else "")
            elif isinstance(event, DriftDetected) and event.key.kind == ROUTE_KIND:
                for ingress in self._cluster.list(INGRESS_API_VERSION, "Ingress", event.key.namespace):
                    self.on_change(INGRESSES, event.key.namespace, ingress, there=True)
            elif isinstance(event, DriftDetected) and (event.key.api_version, event.key.kind) == names.BUDGET:
                self._read(BUDGETS, event.key, "", _place(stream))
                for budget in self._cluster.list(*names.BUDGET, namespace):
                    self.on_change(BUDGETS, namespace, budget, there=True)
            elif isinstance(event, DriftDetected):
                if str(event.key) in state.rejected and not self._cluster.served(event.key.api_version, event.key.kind):
                    # It was served before: known whole again with the list that its watch begins with.
                    self._complete.discard((event.key.namespace, event.key.api_version, event.key.kind))
                    continue
                known = state.objects.get(str(event.key))
                at_home = event.key.namespace == namespace
                watched = of_lgps(event.key.api_version, event.key.kind) if at_home else EXTERNAL_SERVICES
                self._read(watched, event.key, known.applied.fingerprint.uid if known else "", _place(stream))

    def _read(self, watched: Watch, key: ObjectKey, uid: str, at: tuple[str, str] | None = None) -> None:
        """See the object as it is this moment; `at` is its LGP, which it may not name any more."""
        manifest = self._cluster.get(key)
        if manifest is not None and at is not None and watched.kind != "Secret" and owner_label(manifest) is None:
            self._on_object(watched.kind, self._live.setdefault(at, ObservedState()), manifest, there=True)
            return
        if manifest is not None:
            self.on_change(watched, key.namespace, manifest, there=True)
            return
        place = self._live.get((key.namespace, manifests.label_value(key.name))) if watched == LGPS else None
        if place is not None:
            place.lgp, place.removed = None, {uid}
        self._secrets.get(key.namespace, set()).discard(str(key))
        for live in self._live.values():
            live.objects.pop(str(key), None)
            live.workloads.pop(str(key), None)
            live.autoscalers.pop(str(key), None)


class _Scrubber:
    """Takes secret values out of the texts about one LGP, reading the Secrets that a pod refers to."""

    def __init__(self, view: OperatorObserver, at: tuple[str, str], live: ObservedState) -> None:
        self._view = view
        self._at = at
        self._known = live.lgp is not None

    def __call__(self, pod: ObservedPod | None, text: str, output: bool) -> str:
        if not text:
            return ""
        values = list(self._view._hidden.get(self._at, ()))
        unread = []
        for name in sorted(pod.secrets) if pod is not None else ():
            key = ObjectKey(api_version="v1", kind="Secret", namespace=self._at[0], name=name)
            try:
                secret = self._view._cluster.get(key)
            except ObjectRefused:
                secret = None
            if secret is None:
                unread.append(name)
            else:
                values += secret_values(secret)
        if output and unread:
            return f"(withheld: Secret {', '.join(unread)} cannot be read, so its values cannot be taken out)"
        if output and not self._known:
            return "(withheld: the LGP is not there, so its values cannot be taken out)"
        return scrub(text, values)


def _place(stream: str) -> tuple[str, str]:
    """Return namespace and label value of the LGP of a stream."""
    namespace, _, name = stream.partition("/")[2].partition("/")
    return namespace, manifests.label_value(name)


# --- listener
