"""The LGP as far as the operator reads it, and its redacted form, which is the only one that the log may hold.

The model is lenient where Kubernetes itself validates: containers, volumes, tolerations and affinity stay JSON, and
the API server's own message about them is better than ours would be. What the manifests are computed from (numbers,
names, switches) is typed, with the defaults of the custom resource definition, so that an LGP that was read from the
API server and one that was written by hand in a test mean the same.

Redaction. Anybody may write an LGP, and may write secrets into it as literals. `redact` replaces with a keyed digest

- the `value` of every environment variable that is not in PUBLIC_VARIABLES (server, init containers, sidecars);
- every element of `command` and `args` of init containers and sidecars, and of the commands in their probes and
  lifecycle hooks: a flag may carry a token;
- the `value` of HTTP headers in their probes and hooks;
- the values of the parameters of a SecretProviderClass;
- whatever has not the shape that the resource definition gives it.

It drops fields that the operator does not read; `unknown_fields` names them. It keeps names, images, resources,
volumes, labels and annotations: everybody who may read pods may read those. Metadata of the LGP, with kubectl's copy of
the last applied manifest, is no part of the spec and must not be logged either.

A redacted spec has the same shape as the one it came from, so manifests made from it have the same objects, names
and fields: replay compares those. Digests of manifests must be taken of these too, for an unkeyed digest of a short
secret can be guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from engine import names
from engine.digests import canonical
from engine.errors import InvalidResource
from engine.operator.events import Adopted

Json = Any
Mapped = dict[str, Json]

PUBLIC_VARIABLES = frozenset(
    {
        "LANGCHAIN_ENDPOINT",
        "LANGCHAIN_PROJECT",
        "LANGCHAIN_TRACING",
        "LANGCHAIN_TRACING_V2",
        "LANGGRAPH_AUTH_TYPE",
        "LANGSMITH_AUTH_ENDPOINT",
        "LANGSMITH_AUTH_VERIFY_TENANT_ID",
        "LANGSMITH_DEPLOYMENT_NAME",
        "LANGSMITH_ENDPOINT",
        "LANGSMITH_HOST_PROJECT_ID",
        "LANGSMITH_HOST_PROJECT_NAME",
        "LANGSMITH_HOST_REVISION_ID",
        "LANGSMITH_LANGGRAPH_API_REVISION",
        "LANGSMITH_PROJECT",
        "LANGSMITH_TENANT_ID",
        "LANGSMITH_TRACING",
        "LANGSMITH_TRACING_V2",
        "LOG_COLOR",
        "LOG_JSON",
        "LOG_LEVEL",
        "MOUNT_PREFIX",
        "N_JOBS_PER_WORKER",
        "PORT",
    }
)
"""Variables of the platform whose literal value may be logged: ids, names, endpoints and switches."""

REDACTED = "redacted:"
"""Before each digest, so that a person sees what it is."""


def _text(value: Json) -> Json:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_text)]
"""A Kubernetes quantity; numbers are allowed in JSON and mean the same."""


class Part(BaseModel):
    """Base of the parts of an LGP: camelCase in JSON and nothing else, null means unset, unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Json) -> Json:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


class Resources(Part):
    """Compute resources of one container."""

    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    claims: list[Mapped] = []


class EnvVar(Part):
    """One environment variable: a literal, or a reference to a Secret, ConfigMap or field."""

    name: str = Field(min_length=1)
    value: str | None = None
    value_from: Mapped | None = None


class ServerSpec(Part):
    """The Agent Server."""

    image: str = Field(min_length=1)
    image_pull_secrets: list[Mapped] = []
    env: list[EnvVar] = []
    replicas: int | None = Field(default=None, ge=0)
    """None means one, or whatever the autoscaler says."""
    queue_enabled: bool = True
    """Whether runs are worked off by queue workers of their own."""
    num_jobs_per_worker: int | None = Field(default=None, ge=0)
    resources: Resources = Resources()
    queue_resources: Resources | None = None
    """None means those of the server."""
    service_account_name: str | None = None
    init_containers: list[Mapped] = []
    sidecars: list[Mapped] = []
    volumes: list[Mapped] = []
    volume_mounts: list[Mapped] = []
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        """Server-side apply answers a list that names a key twice with an internal error; say it better here."""
        lists: tuple[tuple[str, str, list[Mapped]], ...] = (
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
    """What an LGP asks for."""

    server_spec: ServerSpec
    database: Database = Database()
    redis: Redis = Redis()
    ingress: IngressSwitch = IngressSwitch()
    autoscaling: Autoscaling = Autoscaling()
    managed_resources: ManagedResources = ManagedResources()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: list[Mapped] = []
    affinity: Mapped = {}


class Lgp(BaseModel):
    """An LGP with what its objects need of its metadata, and of what was there before them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str
    name: str
    uid: str
    """Of the LGP, for owner references."""
    spec: LgpSpec
    adopted: Adopted = Adopted()
    """What was there of its objects before we made any."""

    @property
    def stream(self) -> str:
        return names.lgp_stream(self.namespace, self.name)


def parse(namespace: str, name: str, uid: str, spec: Mapping[str, Json], adopted: Adopted | None = None) -> Lgp:
    """Return the LGP with this `spec` (redacted or not). Raises InvalidResource with the path of the first field."""
    there = adopted or Adopted()
    try:
        return Lgp(namespace=namespace, name=name, uid=uid, spec=LgpSpec.model_validate(spec), adopted=there)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in ("spec", *first["loc"]))
        raise InvalidResource(f"LGP {namespace}/{name}", field, first["msg"]) from None


def read(manifest: Mapping[str, Json], adopted: Adopted | None = None) -> Lgp:
    """Return the LGP that the API server stored as `manifest`. Raises InvalidResource."""
    metadata = manifest["metadata"]
    return parse(metadata["namespace"], metadata["name"], metadata["uid"], manifest.get("spec") or {}, adopted)


def redact(spec: Mapping[str, Json], digest: Callable[[bytes], str]) -> Mapped:
    """Return `spec` as the log may hold it; `digest` is keyed (`Ports.digest`). Never raises on odd shapes."""
    redaction = _Redaction(digest)
    kept: Mapped = _without_unknown(LgpSpec, spec)
    if "serverSpec" in kept:
        kept["serverSpec"] = redaction.server(kept["serverSpec"])
    if "managedResources" in kept:
        kept["managedResources"] = redaction.managed(kept["managedResources"])
    return kept


MOST_UNKNOWN = 20
"""Fields that are named; one more says that there are others."""
LONGEST_PATH = 120


def unknown_fields(spec: Json) -> tuple[str, ...]:
    """Return the paths of the fields of `spec` that the operator does not know, without their values.

    A newer listener may have written them. What Kubernetes validates itself (containers, volumes) is not looked at.
    Never raises on odd shapes.
    """
    found = dict.fromkeys(path[:LONGEST_PATH] for path in _unknown(LgpSpec, spec, "spec"))
    return tuple(islice(found, MOST_UNKNOWN)) + (("…",) if len(found) > MOST_UNKNOWN else ())


def _unknown(part: type[Part], value: Json, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unknown(part, item, f"{path}[]")
    if not isinstance(value, Mapping):
        return
    known = _fields(part)
    for name, item in value.items():
        if name not in known:
            yield f"{path}.{name}"
        elif (below := known[name]) is not None:
            yield from _unknown(below, item, f"{path}.{name}")


def _part_of(annotation: Json) -> type[Part] | None:
    """Return the part that a field holds: itself, a list of it, or it or nothing; None for any other value."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _part_of(inner)) is not None), None)


class _Redaction:
    """One redaction: which parts of a spec hold what, walked once."""

    def __init__(self, digest: Callable[[bytes], str]) -> None:
        self._digest = digest

    def server(self, server: Json) -> Json:
        if not isinstance(server, Mapping):
            return self.hide(server)
        kept = dict(server)
        if "env" in kept:
            kept["env"] = self._each(kept["env"], self.variable)
        for field in ("initContainers", "sidecars"):
            if field in kept:
                kept[field] = self._each(kept[field], self.container)
        return kept

    def managed(self, managed: Json) -> Json:
        if not isinstance(managed, Mapping):
            return self.hide(managed)
        kept = dict(managed)
        for field in ("serviceAccount", "secretProviderClass"):
            value = kept.get(field)
            if isinstance(value, Mapping):
                kept[field] = self.parameters(value)
            elif value is not None:
                kept[field] = self.hide(value)
        return kept

    def parameters(self, part: Mapping[str, Json]) -> Mapped:
        """Redact the values of the parameters of a SecretProviderClass."""
        given = part.get("parameters")
        if given is None:
            return dict(part)
        each = {name: self.hide(value) for name, value in given.items()} if isinstance(given, Mapping) else None
        return {**part, "parameters": self.hide(given) if each is None else each}

    def container(self, container: Json) -> Json:
        if not isinstance(container, Mapping):
            return self.hide(container)
        parts: dict[str, Callable[[Json], Json]] = {
            "env": lambda env: self._each(env, self.variable),
            "command": self.words,
            "args": self.words,
            **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"), self.hook),
        }
        return {name: parts[name](value) if name in parts else value for name, value in container.items()}

    def variable(self, variable: Json) -> Json:
        if not isinstance(variable, Mapping) or not isinstance(variable.get("name"), str):
            return self.hide(variable)
        value = variable.get("value")
        if value in (None, "") or (variable["name"] in PUBLIC_VARIABLES and _harmless(value)):
            return dict(variable)
        return {**variable, "value": self.hide(value)}

    def words(self, words: Json) -> Json:
        return self._each(words, self.hide)

    def hook(self, hook: Json) -> Json:
        """Redact commands and header values at any depth of a probe or a lifecycle hook."""
        match hook:
            case {"name": str(), "value": value}:
                return {**hook, "value": self.hide(value)}
            case Mapping():
                return {key: self.words(value) if key == "command" else self.hook(value) for key, value in hook.items()}
            case list():
                return [self.hook(item) for item in hook]
            case _:
                return hook

    def hide(self, value: Json) -> str:
        return REDACTED + self._digest(value.encode() if isinstance(value, str) else canonical(value))

    def _each(self, items: Json, redact_one: Callable[[Json], Json]) -> Json:
        return [redact_one(item) for item in items] if isinstance(items, list) else self.hide(items)


def _without_unknown(part: type[Part], value: Json) -> Json:
    """Return a copy of `value` without fields that the operator does not read, at any depth."""
    if isinstance(value, list):
        return [_without_unknown(part, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    known = _fields(part)
    kept = {name: item for name, item in value.items() if name in known}
    return {
        name: item if (below := known[name]) is None else _without_unknown(below, item) for name, item in kept.items()
    }


@cache
def _fields(part: type[Part]) -> Mapping[str, type[Part] | None]:
    """Return the fields of a part by their names in JSON, with the part that each holds, None for any other value."""
    return {field.alias or name: _part_of(field.annotation) for name, field in part.model_fields.items()}


def _harmless(value: Json) -> bool:
    """Whether the value of a public variable is what it should be: an endpoint with a password in it is not."""
    return isinstance(value, str) and "@" not in value
