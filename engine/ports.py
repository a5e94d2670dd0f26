"""Ports: the protocols through which the engine uses the outside world. They are narrow, so that fakes stay short.

`engine/kubernetes` and `engine/control_plane` implement them, `bootstrap` wires them. Every call has a timeout, and
raises only errors of `engine.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import EllipsisType
from typing import Protocol, TypeAlias

from engine import names
from engine.event import JsonObject as JsonObject

Manifest: TypeAlias = JsonObject
"""A Kubernetes object, as a JSON object."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the time, in UTC."""
        ...


# --- control plane -----------------------------------------------------------------------------------------


class ControlPlane(Protocol):
    """The public API of the control plane, as one workspace sees it (engine/control_plane/client.py)."""

    def deployments(self) -> Iterator[Sequence[JsonObject]]:
        """Yield every page of `GET /v2/deployments` as undecoded resources, unfiltered."""
        ...

    def deployment(self, deployment_id: str) -> JsonObject:
        """Return one deployment. Raises ControlPlaneNotFound."""
        ...

    def listener(self, listener_id: str) -> JsonObject:
        """Return one listener. Raises ControlPlaneNotFound."""
        ...

    def publish_version(self, listener_id: str, version: str) -> None:
        """`PATCH /v2/listeners/{id}` with our version."""
        ...

    def report_revision(
        self, deployment_id: str, revision_id: str, status: str, *, reason: str | None, message: str | None
    ) -> None:
        """Report the status of a revision. Raises ReportRefused if the control plane does not accept the report."""
        ...

    def report_deployment(self, deployment_id: str, status: str, *, reason: str | None) -> None:
        """Report the status of a deployment. Raises ReportRefused if the control plane does not accept the report."""
        ...

    def publish_endpoint(self, deployment_id: str, url: str) -> None:
        """`PATCH /v2/deployments/{id}` with `url` as its custom URL. Raises ReportRefused if that is not accepted."""
        ...


# --- cluster -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKey:
    """The identity of an object: enough to make its URL."""

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
    """The API server's answer to an apply."""

    manifest: Manifest
    """The whole object, as stored."""
    created: bool
    """Whether the apply created the object (201 instead of 200)."""
    changed: bool
    """Whether the apply changed the object (its resourceVersion is another one)."""


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
        """Apply on the server side under `manager`, with force: conflicting fields of other managers become ours.

        Reads the object, calls `before_write` (which verifies that the stream's lock is still held), then writes with
        the resourceVersion that was read. If another worker has changed the object meanwhile, that is a conflict: the
        read, `before_write` and the write are repeated a few times. `seen` is the object as the caller has just read it
        (None: it does not exist), which saves the first read. Raises ObjectRefused, ObjectConflict, ClusterUnavailable.
        """
        ...

    def apply_status(
        self, manifest: Manifest, *, manager: str, before_write: Callable[[], None] | None = None
    ) -> Applied:
        """Apply the status subresource like `apply`, but without the read."""
        ...

    def create(self, manifest: Manifest) -> bool:
        """Create the object unless an object of that name exists; return whether this call created it."""
        ...

    def patch(
        self, key: ObjectKey, patch: Manifest, *, before_write: Callable[[], None] | None = None
    ) -> Manifest | None:
        """Send a JSON merge patch; return the new object, or None when the object does not exist."""
        ...

    def delete(self, key: ObjectKey, *, propagation: str = "Background", uid: str | None = None) -> bool:
        """Delete the object; return False when it did not exist. With `uid`, delete only the object of that uid."""
        ...

    def delete_all(self, api_version: str, kind: str, namespace: str, *, labels: str) -> int:
        """Delete every object of a kind that matches the label selector; return their number."""
        ...

    def watch(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> Iterator[WatchEvent]:
        """List, yield every object as ADDED, then SYNCED, then changes forever.

        The watch continues after disconnects, 410 Gone and restarts of the API server. After a gap it lists again,
        yields the differences to what it yielded before (DELETED for objects that are gone) and SYNCED.
        """
        ...

    def version(self) -> str:
        """Return the version of the API server, for example `v1.34.4`; empty when it reports none.

        Raises ObjectRefused, ClusterUnavailable.
        """
        ...

    def served(self, api_version: str, kind: str) -> bool:
        """Whether the API server serves this kind."""
        ...

    def allowed(
        self, verb: str, api_version: str, kind: str, namespace: str, *, subresource: str = "", name: str = ""
    ) -> bool:
        """Whether our account has a permission (SelfSubjectAccessReview), for the object `name` or for all objects."""
        ...


# --- health ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The answer to one health check."""

    ok: bool
    detail: str
    """Status code and the start of the body, or the error, for a person."""


class HealthProbe(Protocol):
    def check(self, url: str) -> Health:
        """`GET url`, once, within the probe's timeout; never raises."""
        ...


# --- ports of an act --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything that an act may use of the outside world."""

    control_plane: ControlPlane
    cluster: Cluster
    health: HealthProbe
    clock: Clock
    keep_lock: Callable[[], None]
    """Verifies and extends the lock of the stream that is advanced. Raises LockLost. Call it before every write."""
    digest: Callable[[bytes], str]
    """Returns the keyed digest of a secret value: nothing else of the value may reach the log."""
    api_key: str = field(repr=False)
    """The LangSmith API key, for the Secret with which Agent Servers send traces. Never logged."""
    random: Callable[[], float] = lambda: 0.5
    """Returns a random number in [0, 1), for jitter."""
    other_holder: Callable[[str], str | None] = lambda _namespace: None
    """Returns the other data plane that holds a namespace; None when we may write there. Raises ClusterError.
    (engine/kubernetes/namespace_lease.py)"""


class Dispatcher(Protocol):
    def dispatch(self, stream: str) -> None:
        """Request that a worker advances `stream` soon. A lost message costs one sweep."""
        ...
