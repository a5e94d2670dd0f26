"""Events of the streams `lgp/<namespace>/<name>`: what happens to an LGP and to its objects.

To add an event: a class here and in `LGP_EVENTS` at the end; a handler in `state.HANDLERS`, or the list of ignored
classes there; a line in `cli/summaries.py`. Tests prove that none of the three is missing.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from engine.event import Event, Registry
from engine.kubernetes.fingerprint import Fingerprint
from engine.ports import ObjectKey
from engine.runtime.backoff import ActDeferred, ActRefused

LgpStatus = dict[str, Any]
"""The status of an LGP, as JSON."""


class EventPart(BaseModel):
    """Base of the values that events carry."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IngressPath(EventPart):
    """The path of an Agent Server on the shared Ingress, and the Service behind the path."""

    host: str
    """Host of the Ingress rule; empty for any host."""
    path: str
    service: str
    port: int


class AppliedObject(EventPart):
    """One object as the operator applied it."""

    key: ObjectKey
    digest: str
    """Digest of the planned manifest, in which keyed digests stand for secret values."""
    fingerprint: Fingerprint
    """What the API server stored. A Secret that the operator created has no `uid` here: only its existence counts."""
    credential: bool = False
    """The object is a Secret with generated values, which the operator never writes again."""
    ingress_path: IngressPath | None = None
    """The path on the shared Ingress, for an object of kind IngressPath."""


class PodFailure(EventPart):
    """Why a pod of a workload does not become ready. Texts are scrubbed of secret values."""

    pod: str
    """Name of the pod; empty when the workload's controller cannot create a pod."""
    container: str
    reason: str
    message: str
    log: str = ""
    """Last lines that the container wrote before the container ended."""


class WorkloadStatus(EventPart):
    """The status of a Deployment or StatefulSet and its pods, reduced to the fields that the operator uses."""

    key: ObjectKey
    uid: str
    generation: int
    observed_generation: int
    desired: int
    """`spec.replicas` of the workload."""
    replicas: int
    ready: int
    updated: int
    available: int
    template: str = ""
    """Name of the newest ReplicaSet of a Deployment; update revision of a StatefulSet."""
    template_uid: str = ""
    """uid of the newest ReplicaSet."""
    deadline_exceeded: str = ""
    """Message of the Deployment controller after the progress deadline has passed, else empty."""
    unschedulable: str = ""
    """Message of the scheduler about a pod that fits no node, else empty."""
    failure: PodFailure | None = None
    """Failure of a pod of the newest template."""

    @property
    def rolled_out(self) -> bool:
        """Whether every replica has the newest template and is available, and no older replica is left."""
        current = self.observed_generation >= self.generation
        return current and self.updated == self.replicas == self.available == self.desired


class AutoscalerStatus(EventPart):
    """The health that an autoscaler reports in its conditions. Texts are scrubbed of secret values."""

    key: ObjectKey
    uid: str
    reason: str = ""
    """Why the autoscaler does not work; empty when it works."""
    message: str = ""


class RolledOut(EventPart):
    """The newest generation of the LGP that rolled out completely."""

    generation: int
    revision: str
    """Revision id of the control plane that this generation carried; empty for an LGP without one."""
    at: str
    """When the rollout was complete (RFC 3339)."""


class AdoptedObject(EventPart):
    """What the operator keeps of an object that existed before this log: another operator, or a lost log, made it."""

    uid: str
    selector: dict[str, str] = {}
    """Labels by which a workload or Service selects its pods. Kept: a workload's selector is immutable, and a Service
    with another selector would select none of the running pods."""
    template_digest: str = ""
    """Digest of the pod template that our manifest had at the adoption. While our manifest has this template, the
    operator leaves the running pods alone. Empty: the operator replaces the pods by a rolling update."""
    differences: tuple[str, ...] = ()
    """Why the operator replaces the pods: paths of the fields (never values) in which the pods differ from the LGP."""


class AdoptedDatabase(EventPart):
    """A Postgres that existed before this log: where its data and its password are."""

    name: str
    """Name of the StatefulSet."""
    service: str
    """Name of the Service in front of the database."""
    secret: str
    """Name of the Secret with the password."""
    user: str
    database: str
    image: str
    """Image of the running container."""
    template_image: str = ""
    """Image of our `db` template at the adoption. The running image stays until the template names another one."""
    claims: tuple[str, ...] = ()
    """Names of the volumeClaimTemplates of the StatefulSet."""


class Adopted(EventPart):
    """The objects of an LGP that existed before this log, and what the operator keeps of each."""

    name_prefix: str = ""
    """First part of the names of the adopted objects; empty when our names begin the same."""
    objects: dict[str, AdoptedObject] = {}
    """`str(key)` of an object → what the operator keeps of the object."""
    database: AdoptedDatabase | None = None
    config_digest: str = ""
    """Digest of the operator configuration that made `AdoptedObject.template_digest`."""
    managers: tuple[str, ...] = ()
    """Field managers that wrote the objects."""


class Stopped(EventPart):
    """Why the listener scaled an LGP to zero."""

    reason: str
    message: str


class LgpObserved(Event):
    """The LGP is new, or a field changed that the operator reads. Keyed digests stand for secret values."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    """The LGP carries a deletionTimestamp: the operator applies nothing more."""
    revision: str
    """Revision id of the control plane that the LGP carries; empty for an LGP that our listener did not write."""
    deployment_id: str
    """Deployment id of the control plane; empty for an LGP that our listener did not write."""
    spec: dict[str, Any]
    digest: str
    """Keyed digest of the spec with its secret values, and of the fields above."""
    unknown_fields: tuple[str, ...] = ()
    """Paths of the fields of the spec that this program does not know."""
    stopped: Stopped | None = None
    """Set when the revision failed and the listener scaled the LGP to zero."""


class LgpRemoved(Event):
    """The LGP does not exist."""


class ObjectsApplied(Event):
    """The operator applied these objects as the LGP asks."""

    generation: int
    """Generation of the LGP that the objects were made from."""
    config_digest: str
    objects: tuple[AppliedObject, ...]
    created: tuple[str, ...] = ()
    """`str(key)` of the objects that did not exist before."""


class ObjectsAdopted(Event):
    """The operator adopted objects of the LGP that existed before this log, and keeps what `adopted` says."""

    adopted: Adopted


class ObjectRejected(Event):
    """The API server, or a check of ours, rejected one object; the other objects of the act were applied."""

    key: ObjectKey
    digest: str
    """Digest of the rejected manifest."""
    status: int
    """HTTP status."""
    reason: str
    message: str


class ObjectsPruned(Event):
    """The operator deleted these objects, which the LGP no longer asks for."""

    objects: tuple[str, ...]
    everything: bool = False
    """The LGP does not exist, and the operator deleted all of its objects."""
    left_in_place: tuple[str, ...] = ()
    """Those of `objects` that still exist: the exposure or kind is disabled, and our role no longer allows deleting
    them."""


class DriftDetected(Event):
    """A live object is no longer what the operator applied."""

    key: ObjectKey
    change: Literal["deleted", "edited"]
    detail: str


class WorkloadObserved(Event):
    """A field of the status of a workload or its pods changed that the operator uses."""

    workload: WorkloadStatus


class AutoscalerObserved(Event):
    """An autoscaler began or ceased to work, or does not work for another reason than before."""

    autoscaler: AutoscalerStatus


class AutoscalerUnhealthy(Event):
    """An autoscaler has not worked for longer than the grace time. A later AutoscalerObserved may end this."""

    key: ObjectKey
    reason: str
    message: str


class LgpStatusApplied(Event):
    """The operator wrote the status of the LGP."""

    digest: str
    status: LgpStatus
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
