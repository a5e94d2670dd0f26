"""The outside world as the engine sees it: narrow protocols, so that fakes fit on a screen.

Adapters in `engine/kubernetes` and `engine/control_plane` implement them; `bootstrap` wires them. Every call has a
timeout and raises only
errors of `engine.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import EllipsisType
from typing import Any, Protocol

from engine import names
from engine.event import Json

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""
JsonObject = dict[str, Any]
"""A part of a manifest, as JSON: metadata, a spec, a container, an environment variable."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the time, in UTC."""
        ...


# --- control plane -----------------------------------------------------------------------------------------


class ControlPlane(Protocol):
    """The public API of the control plane, as one workspace sees it (engine/control_plane/client.py)."""

    def deployments(self) -> Iterator[Sequence[dict[str, Json]]]:
        """Yield every page of `GET /v2/deployments` as undecoded resources, without any filter of ours."""
        ...

    def deployment(self, deployment_id: str) -> dict[str, Json]:
        """Return one deployment. Raises ControlPlaneNotFound."""
        ...

    def listener(self, listener_id: str) -> dict[str, Json]:
        """Return one listener. Raises ControlPlaneNotFound."""
        ...

    def publish_version(self, listener_id: str, version: str) -> None:
        """`PATCH /v2/listeners/{id}` with our version."""
        ...

    def report_revision(
        self, deployment_id: str, revision_id: str, status: str, *, reason: str | None, message: str | None
    ) -> None:
        """Tell the control plane the status of a revision. Raises ReportRefused where it takes no reports."""
        ...

    def report_deployment(self, deployment_id: str, status: str, *, reason: str | None) -> None:
        """Tell the control plane the status of a deployment. Raises ReportRefused where it takes no reports."""
        ...

    def publish_endpoint(self, deployment_id: str, url: str) -> None:
        """`PATCH /v2/deployments/{id}` with `url` as its custom URL. Raises ReportRefused where it is not taken."""
        ...


# --- cluster -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKey:
    """Which object: enough to make its URL."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> ObjectKey:
        """Return the key of the object that `manifest` describes. Raises KeyError when the manifest has no name."""
        metadata = manifest["metadata"]
        return cls(
            api_version=manifest["apiVersion"],
            kind=manifest["kind"],
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def lgp_key(namespace: str, name: str) -> ObjectKey:
    """Return the key of the LGP of that namespace and name."""
    return ObjectKey(api_version=names.LGP_API_VERSION, kind=names.LGP_KIND, namespace=namespace, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the API server answered to an apply."""

    manifest: Manifest
    """The whole object as stored."""
    created: bool
    """201 rather than 200."""
    changed: bool
    """Whether the write changed the object (its resourceVersion moved)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One line of a watch, or of the list that starts one."""

    type: str
    """`ADDED`, `MODIFIED`, `DELETED`, or `SYNCED`: the initial list is complete (`object` is empty)."""
    object: Manifest


class Cluster(Protocol):
    """The Kubernetes API, generic over kinds (engine/kubernetes/cluster.py)."""

    def get(self, key: ObjectKey) -> Manifest | None:
        """Return the object, or None when it does not exist."""
        ...

    def list(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> list[Manifest]:
        """Return all objects of a kind in a namespace that match the label selector, through all pages."""
        ...

    def apply(
        self,
        manifest: Manifest,
        *,
        manager: str,
        before_write: Callable[[], None] | None = None,
        seen: Manifest | EllipsisType | None = ...,
    ) -> Applied:
        """Server-side apply under `manager`, taking over conflicting fields (force).

        Reads the object, calls `before_write` (which proves that the stream's lock is still held), then writes with
        the resourceVersion that was read: an object that a newer worker changed meanwhile is a conflict, retried
        with a fresh read and a fresh proof a few times. `seen` is what the caller has just read itself (None: nothing
        is there), which spares the first read. Raises ObjectRefused, ObjectConflict, ClusterUnavailable.
        """
        ...

    def apply_status(
        self, manifest: Manifest, *, manager: str, before_write: Callable[[], None] | None = None
    ) -> Applied:
        """The same for the status subresource, without the read."""
        ...

    def create(self, manifest: Manifest) -> bool:
        """Create the object unless one of that name exists; return whether this call created it."""
        ...

    def patch(
        self, key: ObjectKey, patch: Manifest, *, before_write: Callable[[], None] | None = None
    ) -> Manifest | None:
        """JSON merge patch; return the new object, None when it does not exist."""
        ...

    def delete(self, key: ObjectKey, *, propagation: str = "Background", uid: str | None = None) -> bool:
        """Delete the object; return False when it did not exist. `uid` guards against deleting a namesake."""
        ...

    def delete_all(self, api_version: str, kind: str, namespace: str, *, labels: str) -> int:
        """Delete every object of a kind that matches the label selector; return how many there were."""
        ...

    def watch(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> Iterator[WatchEvent]:
        """List, yield every object as ADDED, then SYNCED, then changes for ever.

        Survives disconnects, 410 Gone and API server restarts: after a gap it lists again, yields what differs
        from what it yielded before (including DELETED for what vanished in the gap) and SYNCED.
        """
        ...

    def version(self) -> str:
        """Return the version that the API server tells, for example `v1.34.4`; empty when it tells none.

        Raises ObjectRefused, ClusterUnavailable.
        """
        ...

    def served(self, api_version: str, kind: str) -> bool:
        """Whether the API server serves this kind."""
        ...

    def allowed(
        self, verb: str, api_version: str, kind: str, namespace: str, *, subresource: str = "", name: str = ""
    ) -> bool:
        """SelfSubjectAccessReview: whether our account may do this, to the object `name` or to any."""
        ...


# --- health ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The answer to one health check."""

    ok: bool
    detail: str
    """Status code and the start of the body, or what went wrong, for a person."""


class HealthProbe(Protocol):
    def check(self, url: str) -> Health:
        """`GET url`, once, within the probe's timeout; never raises."""
        ...


# --- what acts receive -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything an act may touch."""

    control_plane: ControlPlane
    cluster: Cluster
    health: HealthProbe
    clock: Clock
    keep_lock: Callable[[], None]
    """Proves and extends the lock of the stream being advanced; raises LockLost. Call before every write."""
    digest: Callable[[bytes], str]
    """Keyed digest of a secret value: the only trace of it that may reach the log."""
    api_key: str = field(repr=False)
    """The LangSmith API key, for the Secret that Agent Servers trace with. Never logged."""
    random: Callable[[], float] = lambda: 0.5
    """A chance in [0, 1), for jitter."""
    other_holder: Callable[[str], str | None] = lambda _namespace: None
    """Which other data plane holds a namespace, None where we may write
    (engine/kubernetes/namespace_lease.py). Raises ClusterError."""


class Dispatcher(Protocol):
    def dispatch(self, stream: str) -> None:
        """Ask for `stream` to be advanced soon; losing the message costs one sweep."""
        ...
