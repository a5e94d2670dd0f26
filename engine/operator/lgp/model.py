"""The fields of an LGP that the operator reads, typed.

The model is lenient where Kubernetes itself validates: containers, volumes, tolerations and affinity stay JSON, since
the API server's own message about them is better than ours would be. Numbers, names and switches, which the manifests
are computed from, are typed, with the defaults of the custom resource definition. So an LGP that was read from the API
server and one that was written by hand in a test mean the same.

How to add a field that changes the manifests:

1. Add the field to its part below, with the default of the custom resource definition.
2. Add the field to the custom resource definition, `k8s/crds/lgps.apps.langchain.ai.yaml`.
3. If users may write a secret into the field, hide its value in `redaction`.
4. Read the field in the module of `engine/operator/manifests` that makes the object (the table in that package's header
   says which module makes what; the Agent Server's pods are made in `server.py`).
5. If the listener shall fill the field from a revision, read it in `engine/listener/resource_spec.py` and write it in
   `engine/listener/desired.py`.
6. Test it in `tests/unit/operator/test_manifests.py` and, when step 3 applies, in `test_manifests_redaction.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from engine import names
from engine.errors import InvalidResource
from engine.operator.events import Adopted
from engine.ports import JsonObject, Manifest


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_text)]
"""A Kubernetes quantity; numbers are allowed in JSON and mean the same."""


class Part(BaseModel):
    """Base of the parts of an LGP: camelCase in JSON and nothing else, null means unset, unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


class Resources(Part):
    """Compute resources of one container."""

    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    claims: list[JsonObject] = []


class EnvVar(Part):
    """One environment variable: a literal, or a reference to a Secret, ConfigMap or field."""

    name: str = Field(min_length=1)
    value: str | None = None
    value_from: JsonObject | None = None


class ServerSpec(Part):
    """The Agent Server."""

    image: str = Field(min_length=1)
    image_pull_secrets: list[JsonObject] = []
    env: list[EnvVar] = []
    replicas: int | None = Field(default=None, ge=0)
    """None means one, or the autoscaler's number."""
    queue_enabled: bool = True
    """Whether separate queue workers execute the runs."""
    num_jobs_per_worker: int | None = Field(default=None, ge=0)
    resources: Resources = Resources()
    queue_resources: Resources | None = None
    """None means the resources of the server."""
    service_account_name: str | None = None
    init_containers: list[JsonObject] = []
    sidecars: list[JsonObject] = []
    volumes: list[JsonObject] = []
    volume_mounts: list[JsonObject] = []
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        """Refuse a list that names a key twice: server-side apply would answer with an internal error."""
        lists: tuple[tuple[str, str, list[JsonObject]], ...] = (
            ("containers", "name", [*self.init_containers, *self.sidecars]),
            ("volumes", "name", self.volumes),
            ("volumeMounts", "mountPath", self.volume_mounts),
        )
        for field, key, items in lists:
            keys = [item.get(key) for item in items]
            if twice := {str(one) for one in keys if keys.count(one) > 1}:
                raise ValueError(f"{field} have the same {key} more than once: {', '.join(sorted(twice))}")
        return self


class Database(Part):
    """The Postgres that the operator makes."""

    enabled: bool = False
    legacy_name: bool = False
    max_connections: int = Field(default=100, ge=1)
    resources: Resources = Resources()
    secret_name: str = Field(default="postgres-credentials", min_length=1)
    storage_size_gi: int = Field(default=10, ge=1)


class Redis(Part):
    """The Redis that the operator makes."""

    enabled: bool = False
    resources: Resources = Resources()


class IngressSwitch(Part):
    """Whether the Agent Server is reached from outside the cluster."""

    enabled: bool = False


class Autoscaling(Part):
    """Bounds for the number of API servers and of queue workers."""

    enabled: bool = False
    autoscaler_type: Literal["HPA", "KEDA"] | None = None
    min_replicas: int | None = Field(default=None, ge=0)
    max_replicas: int | None = Field(default=None, ge=0)
    queue_min_replicas: int | None = Field(default=None, ge=0)
    queue_max_replicas: int | None = Field(default=None, ge=0)


class ManagedServiceAccount(Part):
    """The ServiceAccount that the operator makes for the pods of the LGP."""

    annotations: dict[str, str] = {}
    automount_service_account_token: bool | None = None
    """Whether pods get its token; None: Kubernetes' default, which is that they do."""


class ManagedSecretProviderClass(Part):
    """The SecretProviderClass that the operator makes for volumes of the LGP's pods."""

    name: str = Field(min_length=1, max_length=253)
    provider: Literal["azure"]
    parameters: dict[str, str] = Field(min_length=1)


class ManagedResources(Part):
    """Objects beside the Agent Server's own that the operator makes."""

    service_account: ManagedServiceAccount | None = None
    secret_provider_class: ManagedSecretProviderClass | None = None


class LgpSpec(Part):
    """The spec of an LGP."""

    server_spec: ServerSpec
    database: Database = Database()
    redis: Redis = Redis()
    ingress: IngressSwitch = IngressSwitch()
    autoscaling: Autoscaling = Autoscaling()
    managed_resources: ManagedResources = ManagedResources()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: list[JsonObject] = []
    affinity: JsonObject = {}


class Lgp(BaseModel):
    """An LGP: what its objects need of its metadata and spec, and which objects it adopted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str
    name: str
    uid: str
    """uid of the LGP, for owner references."""
    spec: LgpSpec
    adopted: Adopted = Adopted()
    """Objects of the LGP that existed before this log made any."""

    @property
    def stream(self) -> str:
        return names.lgp_stream(self.namespace, self.name)


def parse_lgp(namespace: str, name: str, uid: str, spec: JsonObject, adopted: Adopted | None = None) -> Lgp:
    """Return the LGP with this `spec` (redacted or not). Raises InvalidResource with the path of the first field."""
    there = adopted or Adopted()
    try:
        return Lgp(namespace=namespace, name=name, uid=uid, spec=LgpSpec.model_validate(spec), adopted=there)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in ("spec", *first["loc"]))
        raise InvalidResource(f"LGP {namespace}/{name}", field, first["msg"]) from None


def read_lgp(manifest: Manifest, adopted: Adopted | None = None) -> Lgp:
    """Return the LGP that the API server stored as `manifest`. Raises InvalidResource."""
    metadata = manifest["metadata"]
    return parse_lgp(metadata["namespace"], metadata["name"], metadata["uid"], manifest.get("spec") or {}, adopted)


@cache
def fields_of(part: type[Part]) -> Mapping[str, type[Part] | None]:
    """Return the fields of a part by their names in JSON, with the part that each holds, None for any other value."""
    return {field.alias or name: _part_of(field.annotation) for name, field in part.model_fields.items()}


def _part_of(annotation: object) -> type[Part] | None:
    """Return the part that a field holds, alone, in a list or as an option; None for any other value."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _part_of(inner)) is not None), None)
