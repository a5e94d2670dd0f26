"""What happens to an LGP and its objects: the events of the streams `lgp/<namespace>/<name>`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from engine.event import Event, Registry
from engine.kubernetes.fingerprint import Fingerprint
from engine.ports import ObjectKey
from engine.runtime.retry import ActDeferred, ActRefused


class Value(BaseModel):
    """Base of the parts of events and states."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Route(Value):
    """The entry of an Agent Server on a shared Ingress."""

    host: str
    """Empty for any."""
    path: str
    service: str
    port: int


class AppliedObject(Value):
    """One object as it went out."""

    key: ObjectKey
    digest: str
    """Of the manifest without secret values: what it was asked to be."""
    fingerprint: Fingerprint
    """What the API server made of it. A Secret that we only created has no `uid`: its existence is all that counts."""
    credential: bool = False
    """A Secret with generated values, which is never written again."""
    route: Route | None = None
    """For an entry of the shared Ingress: which one."""


class PodFailure(Value):
    """Why a pod of a workload does not come up. Texts are scrubbed of secret values."""

    pod: str
    """Empty when no pod can even be made."""
    container: str
    reason: str
    message: str
    log: str = ""
    """Last lines that the container wrote before it ended."""


class WorkloadStatus(Value):
    """What matters of the status of a Deployment or StatefulSet and its pods."""

    key: ObjectKey
    uid: str
    generation: int
    observed_generation: int
    desired: int
    """Replicas that its spec asks for."""
    replicas: int
    ready: int
    updated: int
    available: int
    template: str = ""
    """Names the pods' template: the newest ReplicaSet, or the update revision of a StatefulSet."""
    template_uid: str = ""
    """uid of that ReplicaSet."""
    deadline_exceeded: str = ""
    """Message of the controller when the progress deadline has passed, else empty."""
    unschedulable: str = ""
    """The scheduler's message about a pod that fits no node, else empty."""
    failure: PodFailure | None = None
    """Of a pod of the newest template."""

    @property
    def rolled_out(self) -> bool:
        """Whether all replicas are of the newest template, available, and none is left of an older one."""
        current = self.observed_generation >= self.generation
        return current and self.updated == self.replicas == self.available == self.desired


class AutoscalerStatus(Value):
    """What matters of what an autoscaler says of itself. Texts are scrubbed of secret values."""

    key: ObjectKey
    uid: str
    reason: str = ""
    """Why it does not work; empty when it does."""
    message: str = ""


class RolledOut(Value):
    """The generation of the LGP that was available last."""

    generation: int
    revision: str
    at: str
    """RFC 3339."""


class AdoptedObject(Value):
    """An object that is there although this log never made it, as far as it stays as it is."""

    uid: str
    selector: dict[str, str] = {}
    """Labels by which it finds its pods, which carry them: a workload's cannot be changed, a Service's must not."""
    template: str = ""
    """Digest of the pod template that we would have made. As long as we would make the same one, the pods that run are
    left alone. Empty: they are replaced."""
    differences: tuple[str, ...] = ()
    """Why they are: in which fields (never with which values) the pods are not what the LGP asks for."""


class AdoptedDatabase(Value):
    """A Postgres that is there although this log never made it: what leads to its data."""

    name: str
    """Of the StatefulSet."""
    service: str
    secret: str
    """Name of the Secret with the password."""
    user: str
    database: str
    image: str
    instead_of: str = ""
    """The image that our template had then: the one that runs stays until the template has yet another."""
    claims: tuple[str, ...] = ()
    """Names of its volume claim templates."""


class Adopted(Value):
    """What was there of an LGP's objects before this log made any."""

    base: str = ""
    """What their names begin with; empty: what ours do."""
    objects: dict[str, AdoptedObject] = {}
    """By `str(key)`."""
    database: AdoptedDatabase | None = None
    config_digest: str = ""
    """Names the configuration that `AdoptedObject.template` was made with."""
    managers: tuple[str, ...] = ()
    """Field managers that wrote the objects."""


class Stopped(Value):
    """Why the listener scaled an LGP to nothing."""

    reason: str
    message: str


class LgpObserved(Event):
    """The LGP is new, or changed in what the operator reads of it. Secret values are replaced by keyed digests."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    """It carries a deletionTimestamp: nothing more is applied."""
    revision: str
    """The control plane's revision that it carries, empty for an LGP that somebody else wrote."""
    deployment_id: str
    """The control plane's deployment, empty likewise."""
    spec: dict[str, Any]
    digest: str
    """Keyed, of the spec with its secret values, and the above."""
    unknown: tuple[str, ...] = ()
    """Paths of the fields of its spec that this program does not know."""
    stopped: Stopped | None = None
    """Its revision failed, and the listener took its pods away."""


class LgpRemoved(Event):
    """The LGP does not exist (any more)."""


class ObjectsApplied(Event):
    """These objects are in the cluster as the LGP asks."""

    generation: int
    """Of the LGP that they were made from."""
    config_digest: str
    objects: tuple[AppliedObject, ...]
    created: tuple[str, ...] = ()
    """Those that did not exist before."""


class ObjectsAdopted(Event):
    """Objects of the LGP are there that this log never made. They are taken over, and what is said here is kept."""

    adopted: Adopted


class ObjectRejected(Event):
    """The API server does not take an object; the others went out."""

    key: ObjectKey
    digest: str
    """Of the manifest that it does not take."""
    status: int
    reason: str
    message: str


class ObjectsPruned(Event):
    """These objects are no longer asked for, and gone."""

    objects: tuple[str, ...]
    everything: bool = False
    """The LGP is gone, and nothing of it is left."""
    left: tuple[str, ...] = ()
    """Those of `objects` that are still there: of a way in or a kind that was given up, and our permissions with it."""


class DriftDetected(Event):
    """An object is no longer what was applied."""

    key: ObjectKey
    change: Literal["deleted", "edited"]
    detail: str


class WorkloadObserved(Event):
    """The status of a workload or its pods changed in something that matters."""

    workload: WorkloadStatus


class AutoscalerObserved(Event):
    """An autoscaler works, or it does not (yet): that, or why, is news."""

    autoscaler: AutoscalerStatus


class AutoscalerUnhealthy(Event):
    """An autoscaler has not worked for so long that somebody should look at it. The next observation may end it."""

    key: ObjectKey
    reason: str
    message: str


class LgpStatusApplied(Event):
    """The LGP's status says what the state said."""

    digest: str
    status: dict[str, Any]
    rolled_out: RolledOut | None


LGP_EVENTS = Registry(
    LgpObserved,
    LgpRemoved,
    ObjectsAdopted,
    ObjectsApplied,
    ObjectRejected,
    ObjectsPruned,
    DriftDetected,
    WorkloadObserved,
    AutoscalerObserved,
    AutoscalerUnhealthy,
    LgpStatusApplied,
    ActDeferred,
    ActRefused,
)
