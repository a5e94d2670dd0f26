"""The listener's observer: LGPs and Secrets of the control plane's deployments, as the cluster has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from engine import names
from engine.event import Event
from engine.listener.machine import ListenerMachine
from engine.listener.observation import compare as listener_watching
from engine.listener.state import DeploymentState
from engine.ports import Cluster, Manifest, ObjectKey, lgp_key
from engine.runtime.observation import AT_ONCE, LGPS, SECRETS, SOON, Observation, Streams, Watch


def _deployment_of(manifest: Manifest) -> str:
    """Return the deployment that an object belongs to by its label; empty for none."""
    return str((manifest["metadata"].get("labels") or {}).get(names.DEPLOYMENT_LABEL, ""))


class ListenerObserver:
    """LGPs and Secrets of the control plane's deployments."""

    def __init__(self, machine: ListenerMachine, cluster: Cluster) -> None:
        self.machine = machine
        self._cluster = cluster
        self._lgps: dict[tuple[str, str], Manifest] = {}
        """By namespace and name."""
        self._secrets: dict[tuple[str, str], Manifest] = {}
        """The same; metadata only."""
        self._gone: dict[tuple[str, str], str] = {}
        """Namespace and name → uid of an LGP that was seen to go."""
        self._complete: set[tuple[str, str]] = set()
        """Namespace and kind."""

    def watches(self) -> tuple[Watch, ...]:
        return (LGPS, SECRETS)

    def external_watches(self) -> tuple[tuple[Watch, str], ...]:
        return ()

    def on_change(self, watched: Watch, namespace: str, manifest: Manifest, *, there: bool) -> Streams:
        if watched not in (LGPS, SECRETS):
            return ()
        metadata = manifest["metadata"]
        memory, kept = (self._lgps, manifest) if watched == LGPS else (self._secrets, {"metadata": metadata})
        at = (namespace, metadata["name"])
        before = memory.pop(at, None)
        if there:
            memory[at] = kept
        if watched == LGPS:
            self._gone.pop(at, None)
            if not there and "uid" in metadata:
                self._gone[at] = metadata["uid"]
        # Somebody may have taken the label off: then it is drift of whose it was.
        deployment = _deployment_of(manifest) or (_deployment_of(before) if before is not None else "")
        return [(names.deployment_stream(deployment), AT_ONCE)] if deployment else ()

    def on_synced(self, watched: Watch, namespace: str, streams: Callable[[str], list[str]]) -> Streams:
        if watched not in (LGPS, SECRETS):
            return ()
        self._complete.add((namespace, watched.kind))
        return [(stream, SOON) for stream in streams(self.machine.stream_prefix)]

    def extra_watches(self, state: DeploymentState) -> Iterator[tuple[Watch, str]]:
        return iter(())

    def observe(self, stream: str, state: DeploymentState) -> Observation:
        found: list[Event] = []
        if (state.namespace, "LGP") in self._complete:
            found += listener_watching.observe(state, self._lgps.get((state.namespace, state.lgp)))
        if (state.namespace, "Secret") in self._complete:
            for name in self._secrets_of(state):
                manifest = self._secrets.get((state.namespace, name))
                found += listener_watching.observe_secret(state, name, manifest)
        uid = state.applied.fingerprint.uid if state.applied is not None else None
        seen_to_go = uid is not None and self._gone.get((state.namespace, state.lgp)) == uid
        suspicious = {"DriftDetected"} if seen_to_go else {"DriftDetected", "LgpGone"}
        return Observation(
            certain=tuple(event for event in found if event.type not in suspicious),
            unconfirmed=tuple(event for event in found if event.type in suspicious),
        )

    def _secrets_of(self, state: DeploymentState) -> list[str]:
        """Return the names of the Secrets to look at: the current revision's, or whatever outlived the deployment."""
        if not state.deleted:
            return [state.revision.secret] if state.revision is not None and state.revision.secret else []
        here = [(name, kept) for (namespace, name), kept in self._secrets.items() if namespace == state.namespace]
        return [name for name, kept in here if listener_watching.is_remainder(state, kept)][:1]

    def confirm(self, stream: str, state: DeploymentState, unconfirmed: Iterable[Event]) -> None:
        self._read(LGPS, lgp_key(state.namespace, state.lgp))
        for name in self._secrets_of(state):
            self._read(SECRETS, ObjectKey(api_version="v1", kind="Secret", namespace=state.namespace, name=name))

    def _read(self, watched: Watch, key: ObjectKey) -> None:
        manifest = self._cluster.get(key)
        gone = {"metadata": {"name": key.name}}
        self.on_change(watched, key.namespace, manifest or gone, there=manifest is not None)
