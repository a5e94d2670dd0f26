"""The listener's observer: LGPs and Secrets of the control plane's deployments, as the cluster has them.

It watches LGPs and the Secrets that the data plane manages, and no other kind. Objects belong to a deployment by their
label DEPLOYMENT_LABEL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from engine import names
from engine.event import Event
from engine.listener.desired import secret_key
from engine.listener.events import DriftDetected, LgpGone
from engine.listener.machine import ListenerMachine
from engine.listener.observation.compare import is_remainder, observe_lgp, observe_secret
from engine.listener.state import DeploymentState
from engine.ports import Cluster, Manifest, ObjectKey, lgp_key
from engine.runtime.observation import AT_ONCE, LGPS, SECRETS, SOON, Affected, Observation, Watch


def _deployment_of(manifest: Manifest) -> str:
    """Return the deployment that an object belongs to by its label; empty for none."""
    return str((manifest["metadata"].get("labels") or {}).get(names.DEPLOYMENT_LABEL, ""))


class ListenerObserver:
    """Observes LGPs and Secrets of the control plane's deployments."""

    def __init__(self, machine: ListenerMachine, cluster: Cluster) -> None:
        self.machine = machine
        self._cluster = cluster
        self._lgps: dict[tuple[str, str], Manifest] = {}
        """By namespace and name."""
        self._secrets: dict[tuple[str, str], Manifest] = {}
        """By namespace and name; metadata only."""
        self._removed_uids: dict[tuple[str, str], str] = {}
        """Namespace and name → uid of an LGP whose deletion was observed."""
        self._complete: set[tuple[str, str]] = set()
        """Namespace and kind of which every object is known."""

    def watches(self) -> tuple[Watch, ...]:
        return (LGPS, SECRETS)

    def external_watches(self) -> tuple[tuple[Watch, str], ...]:
        return ()

    def extra_watches(self, state: DeploymentState) -> Iterator[tuple[Watch, str]]:
        return iter(())

    def on_change(self, watch: Watch, namespace: str, manifest: Manifest, *, exists: bool) -> Affected:
        if watch not in (LGPS, SECRETS):
            return ()
        metadata = manifest["metadata"]
        memory, kept = (self._lgps, manifest) if watch == LGPS else (self._secrets, {"metadata": metadata})
        place = (namespace, metadata["name"])
        before = memory.pop(place, None)
        if exists:
            memory[place] = kept
        if watch == LGPS:
            self._removed_uids.pop(place, None)
            if not exists and "uid" in metadata:
                self._removed_uids[place] = metadata["uid"]
        # An object without its label is drift of the deployment that it belonged to before.
        deployment = _deployment_of(manifest) or (_deployment_of(before) if before is not None else "")
        return [(names.deployment_stream(deployment), AT_ONCE)] if deployment else ()

    def on_synced(self, watch: Watch, namespace: str, streams: Callable[[str], list[str]]) -> Affected:
        if watch not in (LGPS, SECRETS):
            return ()
        self._complete.add((namespace, watch.kind))
        return [(stream, SOON) for stream in streams(self.machine.stream_prefix)]

    def observe(self, stream: str, state: DeploymentState) -> Observation:
        found: list[Event] = []
        if (state.namespace, "LGP") in self._complete:
            found += observe_lgp(state, self._lgps.get((state.namespace, state.lgp.name)))
        if (state.namespace, "Secret") in self._complete:
            for name in self._secrets_of(state):
                manifest = self._secrets.get((state.namespace, name))
                found += observe_secret(state, name, manifest)
        uid = state.lgp.applied.fingerprint.uid if state.lgp.applied is not None else None
        deletion_was_observed = uid is not None and self._removed_uids.get((state.namespace, state.lgp.name)) == uid
        unconfirmed = (DriftDetected,) if deletion_was_observed else (DriftDetected, LgpGone)
        return Observation(
            certain=tuple(event for event in found if not isinstance(event, unconfirmed)),
            unconfirmed=tuple(event for event in found if isinstance(event, unconfirmed)),
        )

    def _secrets_of(self, state: DeploymentState) -> list[str]:
        """Return the names of the Secrets to compare: the current revision's, or one that outlived the deployment."""
        if not state.deleted:
            return [state.revision.secret] if state.revision is not None and state.revision.secret else []
        here = [(name, kept) for (namespace, name), kept in self._secrets.items() if namespace == state.namespace]
        return [name for name, kept in here if is_remainder(state, kept)][:1]

    def confirm(self, stream: str, state: DeploymentState, unconfirmed: Iterable[Event]) -> None:
        self._read(LGPS, lgp_key(state.namespace, state.lgp.name))
        for name in self._secrets_of(state):
            self._read(SECRETS, secret_key(state, name))

    def _read(self, watch: Watch, key: ObjectKey) -> None:
        manifest = self._cluster.get(key)
        absent = {"metadata": {"name": key.name}}
        self.on_change(watch, key.namespace, manifest or absent, exists=manifest is not None)
