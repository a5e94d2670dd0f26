"""Every setting of the data plane, read and validated in this one place.

A setting is an environment variable `AGENTPLANE_<NAME>`. An empty variable counts as unset. `Settings.load()` returns a
consistent configuration or raises SettingsError with one line per mistake: the variable, its value (never of a secret)
and the fix. The description of a field is the documentation of the setting: `describe()`, error messages and
`docs/settings.md` show it. It is a noun phrase that fits after "set it to the", if the setting can be required.

No other module reads the environment. Libraries read their own variables: HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE work
as usual.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit
from uuid import UUID

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine.errors import SettingsError
from engine.log.sentinels import Sentinels, addresses, is_sentinel

PREFIX = "AGENTPLANE_"

REGIONS: Mapping[str, tuple[str, str]] = {
    "gcp-us": ("https://api.host.langchain.com", "https://api.smith.langchain.com"),
    "gcp-eu": ("https://eu.api.host.langchain.com", "https://eu.api.smith.langchain.com"),
    "gcp-apac": ("https://apac.api.host.langchain.com", "https://apac.api.smith.langchain.com"),
    "aws-us": ("https://aws.api.host.langchain.com", "https://aws.api.smith.langchain.com"),
}
"""Region → control plane URL, LangSmith API URL."""

DEFAULT_REGION = "gcp-us"

OFF = frozenset({"", "off", "none"})
"""Values that disable a report route."""

EMPTY_MEANS_OFF = ("report_revision_route", "report_deployment_route")
"""Settings for which an empty variable is a value (off), not unset."""

SERVICE_LINK = re.compile(r".*_SERVICE_(HOST|PORT)(_.*)?=.*|.*_PORT(_.*)?=(tcp|udp|sctp)://.*|.*_PORT_\d+_.*")
"""Variables, with their values, that Kubernetes sets in a pod for each Service whose name starts with `agentplane-`."""

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOSTNAME = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_ROUTE = re.compile(r"(PATCH|POST|PUT) (/\S*)")
_USERINFO = re.compile(r"(?s)://.*@")

_PREDICATES = ("must ", "may ", "is ", "has ", "cannot ")
"""Beginnings of the messages whose subject is the variable."""

_LIMITS: Mapping[str, str] = {
    "exclusiveMinimum": "more than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
}
"""Constraint in the JSON schema of a field → words."""

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def variable(field: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{field.upper()}"


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How clients reach Agent Servers."""

    kind: Literal["ingress", "gateway", "istio", "none"]
    hostname: str
    base_path: str
    tls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One setting, without secrets."""

    name: str
    variable: str
    value: str
    """`set, not shown` for a secret."""
    given: bool
    """Whether the value was set; otherwise it is the default."""
    description: str


class Settings(BaseSettings):
    """The configuration of one installation. Durations are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    # --- identity

    listener_enabled: bool = Field(
        True, description="whether this data plane runs the listener; false if another program keeps the LGPs"
    )
    operator_enabled: bool = Field(
        True, description="whether this data plane runs the operator; false if another program expands the LGPs"
    )
    langsmith_api_key: SecretStr | None = Field(None, description="LangSmith API key of the workspace")
    workspace_id: UUID | None = Field(
        None, description="id of the LangSmith workspace (a UUID, shown in LangSmith under Settings)"
    )
    listener_id: UUID | None = Field(
        None, description="id of the listener (a UUID, shown in LangSmith under Deployments > Listeners)"
    )
    digest_key: SecretStr | None = Field(
        None,
        description="secret key for the digests of secret values, any long text (needed only without a LangSmith API "
        "key, by an operator alone)",
    )
    prefix: str = Field(
        "agentplane",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        json_schema_extra={"rule": "be 1 to 40 lowercase letters, digits and dashes, without a dash at either end"},
        description="prefix of all queues and Redis keys; each installation that shares a Redis needs its own",
    )

    # --- control plane

    region: Literal["gcp-us", "gcp-eu", "gcp-apac", "aws-us"] | None = Field(
        None,
        description=f"LangSmith region ({', '.join(REGIONS)}); sets both URLs. Without a region and a URL: "
        f"{DEFAULT_REGION}",
    )
    host_backend_url: str = Field(
        "", description="URL of the control plane (self-hosted: https://<LangSmith>/api-host)"
    )
    smith_backend_url: str = Field("", description="URL of the LangSmith API that belongs to the control plane")
    control_plane_ca_file: Path | None = Field(
        None, description="PEM file with the CA certificates of both URLs, if a private CA signs their certificates"
    )
    report_revision_route: str = Field(
        "PATCH /v2/deployments/{deployment_id}/revisions/{revision_id}/status",
        description="METHOD /path to which the listener reports the status of a revision, with {deployment_id} and "
        "{revision_id}; empty or off: no reports",
    )
    report_deployment_route: str = Field(
        "PATCH /v2/deployments/{deployment_id}/status",
        description="METHOD /path to which the listener reports the status of a deployment, with {deployment_id}; "
        "empty or off: no reports",
    )

    # --- Redis and time

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="URL of Redis with its password, redis:// or rediss:// (TLS); or the Sentinels that know the "
        "master: sentinel://:password@host:26379/0;sentinel://host2:26379",
    )
    redis_sentinel_master: str = Field(
        "", description="name of the master that the Sentinels of a sentinel:// URL watch, for example mymaster"
    )
    redis_sentinel_username: str = Field("", description="user name for the Sentinels themselves, if they require one")
    redis_sentinel_password: SecretStr | None = Field(
        None, description="password for the Sentinels themselves, if they require one"
    )
    poll_seconds: Seconds = Field(10.0, description="seconds between two polls of the control plane")
    sweep_seconds: Seconds = Field(
        2.0,
        description="seconds between two sweeps; a sweep requests the work that is due or whose queue message was lost",
    )
    lock_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        15.0,
        description="TTL of a stream lock, seconds; the worker renews the lock every third of this, and another "
        "worker can take over that long after a crash",
    )
    request_timeout_seconds: Seconds = Field(
        15.0, description="read timeout of requests to the control plane and to Kubernetes, seconds"
    )
    connect_timeout_seconds: Seconds = Field(
        5.0, description="connect timeout of requests to the control plane and to Kubernetes, seconds"
    )

    # --- listener

    watch_namespaces: CommaSeparated = Field(
        (), description="namespaces to deploy to, separated by commas (those of the listener in LangSmith)"
    )
    share_namespaces: bool = Field(
        False,
        description="whether to share the watched namespaces with other data planes that set this too; each data "
        "plane changes only objects with its own listener id",
    )
    lease_seconds: Annotated[float, Field(ge=5, le=86_400)] = Field(
        60.0,
        description="TTL of a namespace lease, seconds; renewed every third of this. Once it has passed after a "
        "crash, another data plane may take the namespace (`agentplane leases take`)",
    )
    queue_enabled: bool = Field(
        True, description="whether Agent Servers get separate queue workers (spec.serverSpec.queueEnabled of the LGP)"
    )
    tracing_enabled: bool = Field(True, description="whether Agent Servers send traces to LangSmith")
    agent_auth: Literal["langsmith", "noop"] = Field(
        "langsmith",
        description="who may call Agent Servers: langsmith (holders of an API key of the workspace) or noop (everyone)",
    )
    rollout_deadline_seconds: Seconds = Field(
        900.0, description="seconds that a revision may take to roll out; after that it has failed"
    )
    failure_grace_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0, description="seconds that a pod may fail (image pull error, crash loop) before its revision has failed"
    )
    stop_failed_revisions: bool = Field(
        True,
        description="whether to scale a failed revision to zero if its pods crash or its image cannot be pulled, and "
        "no earlier revision was deployed; its database stays",
    )
    health_check_enabled: bool = Field(
        True, description="whether GET /ok through the hostname must succeed before a revision is DEPLOYED"
    )
    health_check_deadline_seconds: Seconds = Field(
        300.0, description="seconds within which a health check of a revision must succeed"
    )
    health_check_timeout_seconds: Seconds = Field(10.0, description="timeout of one health check, seconds")
    health_check_address: str = Field(
        "",
        description="host:port that health checks connect to, if the hostname is not reachable from inside the cluster",
    )
    health_check_verify_tls: bool = Field(
        True, description="whether health checks verify the TLS certificate of the hostname"
    )
    health_check_ca_file: Path | None = Field(
        None, description="PEM file with the CA certificates of the hostname, if a private CA signs its certificate"
    )
    deletion_guard_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of all deployments that may be deleted at once without a person's consent (1: all)"
    )
    deletion_guard_minimum: Annotated[int, Field(ge=1)] = Field(
        5, description="number of deployments that may always be deleted at once, whatever their share"
    )

    # --- exposure of Agent Servers: at most one of Ingress, Gateway, Istio

    ingress_enabled: bool | None = Field(
        None,
        description="whether the operator adds a path per Agent Server to a shared Ingress; unset: true if no gateway "
        "is enabled",
    )
    ingress_hostname: str = Field("", description="hostname[:port] of all Agent Servers, without https://")
    ingress_base_path: str = Field("", description="path before /lgp/<name>; do not change it while deployments exist")
    ingress_tls_enabled: bool = Field(True, description="whether the hostname uses https")
    ingress_class: str = Field("", description="IngressClass of the shared Ingress; empty: the cluster's default class")
    ingress_namespace: str = Field(
        "",
        description="namespace of the shared Ingress; empty: the namespace of the LGPs. From another namespace, the "
        "Ingress reaches Agent Servers through Services of type ExternalName, which the ingress "
        "controller must allow",
    )
    gateway_enabled: bool = Field(
        False, description="whether the operator creates an HTTPRoute (Gateway API) for each Agent Server"
    )
    gateway_name: str = Field("", description="name of the Gateway")
    gateway_namespace: str = Field("", description="namespace of the Gateway")
    gateway_hostname: str = Field("", description="hostname[:port] of all Agent Servers, without https://")
    gateway_base_path: str = Field("", description="path before /lgp/<name>; do not change it while deployments exist")
    gateway_tls_enabled: bool = Field(True, description="whether the hostname uses https")
    istio_gateway_enabled: bool = Field(
        False, description="whether the operator creates an Istio VirtualService for each Agent Server"
    )
    istio_gateway_name: str = Field("", description="name of the Istio Gateway")
    istio_gateway_namespace: str = Field("", description="namespace of the Istio Gateway")
    istio_gateway_hostname: str = Field("", description="hostname[:port] of all Agent Servers, without https://")
    istio_gateway_base_path: str = Field(
        "", description="path before /lgp/<name>; do not change it while deployments exist"
    )
    istio_gateway_tls_enabled: bool = Field(True, description="whether the hostname uses https")

    # --- operator

    template_deployment: Path | None = Field(
        None, description="YAML file with the template of Agent Server Deployments"
    )
    template_service: Path | None = Field(None, description="YAML file with the template of Agent Server Services")
    template_db: Path | None = Field(None, description="YAML file with the template of Postgres StatefulSets")
    template_redis: Path | None = Field(None, description="YAML file with the template of Redis Deployments")
    keda_enabled: bool = Field(
        False, description="whether the operator autoscales with KEDA, which must be installed in the cluster"
    )
    managed_service_accounts: bool = Field(
        False,
        description="whether the operator creates the ServiceAccounts that LGPs request "
        "(spec.managedResources.serviceAccount)",
    )
    managed_secret_provider_classes: bool = Field(
        False,
        description="whether the operator creates the SecretProviderClasses that LGPs request "
        "(spec.managedResources.secretProviderClass); needs the Secrets Store CSI driver",
    )
    pod_disruption_budgets: bool = Field(
        True,
        description="whether the operator creates a PodDisruptionBudget for each Agent Server workload with at least "
        "two replicas",
    )
    cluster_domain: str = Field("cluster.local", description="DNS domain of the cluster")
    revision_history_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        3,
        description="number of old ReplicaSets that a Deployment keeps, unless its template sets revisionHistoryLimit",
    )
    agent_redis_key_prefix: bool = Field(
        True,
        description="whether the operator sets REDIS_KEY_PREFIX for Agent Servers with a Redis of their own "
        "(REDIS_URI_CUSTOM), unless the deployment sets it",
    )

    # --- Kubernetes

    kubeconfig: Path | None = Field(
        None, description="kubeconfig file; unset: the service account of the pod, else the default kubeconfig"
    )
    kube_context: str | None = Field(None, description="context of the kubeconfig; unset: its current context")
    kube_connections: Annotated[int, Field(ge=1)] = Field(
        64, description="number of connections to Kubernetes that the pool keeps open"
    )
    watch_seconds: Seconds = Field(
        60.0,
        description="longest duration of a watch connection, seconds; and so how long a dead connection can go "
        "unnoticed",
    )

    process: Literal["listener", "operator", "beat", "watcher", "flower"] | None = Field(
        None,
        description="process that this environment belongs to, so that `agentplane doctor` checks what that process "
        "needs; the chart sets it. Unset: doctor checks everything",
    )
    network_policy: str = Field(
        "",
        description="name of the NetworkPolicy that limits the outgoing connections of the processes; messages about "
        "failed connections name it. The chart sets it (networkPolicy.enabled)",
    )

    # --- telemetry

    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged: debug, info, warning or error"
    )
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        None, description="port that serves Prometheus metrics; unset: no metrics"
    )
    sentry_dsn: SecretStr | None = Field(
        None, description="DSN of Sentry for error reports; unset: no error reports are sent"
    )

    # --- loading and showing

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Return the settings of this process; `given` overrides the environment.

        Raises SettingsError with one line per mistake.
        """
        for name in EMPTY_MEANS_OFF:
            if os.environ.get(variable(name)) == "":
                given.setdefault(name, "")
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsError("\n".join(_explain(cls, problem, given) for problem in error.errors())) from None

    def describe(self) -> list[Described]:
        """Return every setting without secret values, in the order of this file."""
        return [
            Described(
                name=name,
                variable=variable(name),
                value=_shown(name, getattr(self, name)),
                given=name in self.model_fields_set,
                description=field.description or "",
            )
            for name, field in type(self).model_fields.items()
        ]

    def secrets(self) -> tuple[str, ...]:
        """Return the secret values that no log line, metric or report may contain, longest first."""
        held = [self.langsmith_api_key, self.digest_key, self.sentry_dsn, self.redis_sentinel_password]
        values = {secret.get_secret_value() for secret in held if secret is not None}
        for password in _passwords(self.redis_url.get_secret_value()):
            values |= {password, unquote(password)}
        return tuple(sorted(values - {""}, key=len, reverse=True))

    def templates(self) -> dict[str, str]:
        """Return the operator's templates that are set, as YAML text by name. Raises SettingsError."""
        read = {}
        for name in ("deployment", "service", "db", "redis"):
            path: Path | None = getattr(self, f"template_{name}")
            if path is None:
                continue
            try:
                read[name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"{variable(f'template_{name}')}={str(path)!r} cannot be read: {error}; set it to a readable file"
                ) from error
        return read

    def may_be(self, *processes: str) -> bool:
        """Whether this environment may belong to one of `processes`: it names one of them, or it names no process."""
        return self.process is None or self.process in processes

    @property
    def redis(self) -> str | Sentinels:
        """The URL of Redis, or the Sentinels that know its master."""
        url = self.redis_url.get_secret_value()
        if not is_sentinel(url):
            return url
        password = self.redis_sentinel_password.get_secret_value() if self.redis_sentinel_password else ""
        return Sentinels.parse(url, self.redis_sentinel_master, self.redis_sentinel_username, password)

    @property
    def redis_display(self) -> str:
        """The URL of Redis without its passwords."""
        return _without_password(self.redis_url.get_secret_value())

    @property
    def stream_name(self) -> str:
        """The name of this data plane's own stream: the listener's id, or `operator`."""
        return str(self.listener_id) if self.listener_enabled and self.listener_id else "operator"

    @property
    def data_plane(self) -> str:
        """The name under which this data plane leases namespaces: its prefix and its listener's id."""
        return f"{self.prefix}/{self.listener_id or 'operator'}"

    @property
    def routing(self) -> Routing:
        """The exposure of Agent Servers that is enabled."""
        if self.gateway_enabled:
            return Routing(
                kind="gateway",
                hostname=self.gateway_hostname,
                base_path=self.gateway_base_path,
                tls=self.gateway_tls_enabled,
            )
        if self.istio_gateway_enabled:
            return Routing(
                kind="istio",
                hostname=self.istio_gateway_hostname,
                base_path=self.istio_gateway_base_path,
                tls=self.istio_gateway_tls_enabled,
            )
        return Routing(
            kind="ingress" if self.ingress_enabled is not False else "none",
            hostname=self.ingress_hostname,
            base_path=self.ingress_base_path,
            tls=self.ingress_tls_enabled,
        )

    @property
    def ingress_elsewhere(self) -> str:
        """The namespace of the shared Ingress if it is not a watched namespace; otherwise empty."""
        away = self.routing.kind == "ingress" and self.ingress_namespace not in self.watch_namespaces
        return self.ingress_namespace if away else ""

    # --- validation of single settings

    @field_validator("host_backend_url", "smith_backend_url")
    @classmethod
    def _url(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if not value:
            return value
        try:
            parts = urlsplit(value)
        except ValueError:  # brackets that enclose no IPv6 address
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL such as https://api.host.langchain.com")
        if parts.username or parts.password or "?" in value or "#" in value:
            raise ValueError("must be a plain URL; remove the user, the query and the fragment")
        if parts.path.endswith(("/v1", "/v2")):
            raise ValueError("must end before /v1 or /v2; remove that part, agentplane adds it")
        return value

    @field_validator("langsmith_api_key", "digest_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value().strip()  # the file that a Secret was made from often ends in a newline
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(
                "must be one word of printable ASCII characters; check for characters that were pasted with it"
            )
        return SecretStr(text)

    @field_validator("redis_sentinel_password")
    @classmethod
    def _password(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(value.get_secret_value().strip("\r\n"))  # it may come from a file

    @field_validator("sentry_dsn")
    @classmethod
    def _dsn(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value().strip() if value else ""
        if not text:
            return None
        from sentry_sdk.utils import Dsn  # imported here: without a DSN, a start saves 0.06 s of CPU

        try:
            Dsn(text)
        except ValueError:  # BadDsn is one; its message may contain a part of the DSN
            raise ValueError(
                "must be a DSN such as https://<public key>@<host>/<project number>; copy it from the project in "
                "Sentry (Settings > Client Keys), or unset it"
            ) from None
        return SecretStr(text)

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        if is_sentinel(value.get_secret_value()):
            try:
                Sentinels.parse(value.get_secret_value())
            except ValueError as error:
                raise ValueError(
                    f"{error}. Example: sentinel://:password@host:26379/0;sentinel://host2:26379"
                ) from None
            return value
        try:
            parts = urlsplit(value.get_secret_value())
        except ValueError:
            raise ValueError("must have an IPv6 address between the brackets; write [ in a password as %5B") from None
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("must start with redis:// or rediss://, or with sentinel:// for each Sentinel")
        try:
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("must name a host; a port must be from 1 to 65535. Example: redis://:password@host:6379/0")
        if not re.fullmatch(r"(/\d*)?", parts.path):
            raise ValueError("must end with the port or with the number of a database, for example :6379/0")
        return value

    @field_validator("watch_namespaces")
    @classmethod
    def _namespaces(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _DNS_LABEL.fullmatch(name):
                raise ValueError(
                    f"must be names of namespaces (lowercase letters, digits and dashes), but {name!r} is not; "
                    "correct or remove it"
                )
        return tuple(dict.fromkeys(value))

    @field_validator("ingress_hostname", "gateway_hostname", "istio_gateway_hostname", "health_check_address")
    @classmethod
    def _hostname(cls, value: str) -> str:
        if value and not _HOSTNAME.fullmatch(value):
            raise ValueError("must be a hostname with an optional :port, without https:// and without a path")
        return value

    @field_validator("ingress_namespace", "gateway_namespace", "istio_gateway_namespace")
    @classmethod
    def _namespace(cls, value: str) -> str:
        if value and not _DNS_LABEL.fullmatch(value):
            raise ValueError("must be the name of one namespace (lowercase letters, digits and dashes)")
        return value

    @field_validator("ingress_base_path", "gateway_base_path", "istio_gateway_base_path")
    @classmethod
    def _base_path(cls, value: str) -> str:
        return f"/{value.strip('/')}" if value.strip("/") else ""

    @field_validator("report_revision_route", "report_deployment_route")
    @classmethod
    def _route(cls, value: str) -> str:
        if value.strip().lower() in OFF:
            return ""
        if not _ROUTE.fullmatch(value):
            raise ValueError("must be METHOD /path, with one space between them; METHOD is PATCH, POST or PUT")
        try:
            value.format(deployment_id="", revision_id="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"may use only {{deployment_id}} and {{revision_id}}, not {error}") from error
        return value

    @field_validator(
        "template_deployment",
        "template_service",
        "template_db",
        "template_redis",
        "kubeconfig",
        "control_plane_ca_file",
        "health_check_ca_file",
    )
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser()
        if not path.is_file() or not os.access(path, os.R_OK):
            raise ValueError("is not a file that this process can read; correct the path, or unset it")
        return path

    @field_validator("log_level", "log_format", "region", "agent_auth", "process", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    # --- validation across settings

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        mistakes = [*self._needed(), *self._sentinels(), *self._routes()]
        self.__dict__.update(self._urls(mistakes))  # the model is frozen, so past its __setattr__
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    def _needed(self) -> list[str]:
        mistakes = []
        if self.listener_enabled:
            for name in ("langsmith_api_key", "workspace_id", "listener_id"):
                value = getattr(self, name)
                if value is None or (isinstance(value, SecretStr) and not value.get_secret_value().strip()):
                    mistakes.append(_missing(name))
        elif self.operator_enabled and not (self.langsmith_api_key or self.digest_key):
            mistakes.append(_missing("digest_key"))
        if (self.listener_enabled or self.operator_enabled) and not self.watch_namespaces:
            mistakes.append(_missing("watch_namespaces"))
        if self.share_namespaces and not self.listener_id:
            mistakes.append(f"{_missing('listener_id')}; shared namespaces need it to tell the data planes apart")
        if self.lease_seconds < 2 * self.lock_seconds:
            mistakes.append(
                f"{variable('lease_seconds')}={self.lease_seconds:g} must be at least twice "
                f"{variable('lock_seconds')}={self.lock_seconds:g}; otherwise a worker that was suspended could write "
                "to a namespace that another data plane has taken"
            )
        return mistakes

    def _sentinels(self) -> list[str]:
        """Return the mistakes in the settings of Sentinels: one is missing, or has no effect."""
        if is_sentinel(self.redis_url.get_secret_value()):
            return [] if self.redis_sentinel_master else [_missing("redis_sentinel_master")]
        return [
            f"{variable(name)} is set, but {variable('redis_url')} does not start with sentinel://: name the Sentinels "
            f"there, or unset {variable(name)}"
            for name in ("redis_sentinel_master", "redis_sentinel_username", "redis_sentinel_password")
            if getattr(self, name)
        ]

    def _routes(self) -> list[str]:
        enabled = [
            name for name in ("ingress_enabled", "gateway_enabled", "istio_gateway_enabled") if getattr(self, name)
        ]
        if len(enabled) > 1:
            names = " and ".join(variable(name) for name in enabled)
            both, others = ("both", "one") if len(enabled) == 2 else ("all", "all but one")
            return [
                f"{names} are {both} true, but at most one exposure of Agent Servers can be enabled; set {others} of "
                "them to false"
            ]
        mistakes = []
        for name in ("gateway", "istio_gateway"):
            if getattr(self, f"{name}_enabled"):
                mistakes += [
                    _missing(f"{name}_{part}") for part in ("name", "hostname") if not getattr(self, f"{name}_{part}")
                ]
        routing = self.routing
        if routing.kind == "ingress" and len(self.watch_namespaces) > 1:
            mistakes.append(
                f"{variable('watch_namespaces')}={','.join(self.watch_namespaces)!r}: one shared Ingress serves "
                "the Agent Servers of one namespace; for more than one namespace set "
                f"{variable('gateway_enabled')}=true or {variable('istio_gateway_enabled')}=true"
            )
        if routing.kind == "ingress" and not routing.hostname and self.listener_enabled and self.health_check_enabled:
            mistakes.append(
                f"{_missing('ingress_hostname')}; the health check connects through the hostname. Without one, set "
                f"{variable('health_check_enabled')}=false"
            )
        return mistakes

    def _urls(self, mistakes: list[str]) -> dict[str, str]:
        """Return both URLs, those of the region if they are not set; append the mistakes to `mistakes`."""
        host, smith = self.host_backend_url, self.smith_backend_url
        by_host = {pair[0]: region for region, pair in REGIONS.items()}
        by_smith = {pair[1]: region for region, pair in REGIONS.items()}
        if host in by_smith or smith in by_host:
            mistakes.append(
                f"{variable('host_backend_url')}={host!r}, {variable('smith_backend_url')}={smith!r}: the URLs look "
                "swapped; api.host is the control plane, api.smith the LangSmith API"
            )
            return {}
        region = self.region or by_host.get(host) or by_smith.get(smith) or (None if host or smith else DEFAULT_REGION)
        if region is not None:
            expected = REGIONS[region]
            for name, value, other in (
                ("host_backend_url", host, expected[0]),
                ("smith_backend_url", smith, expected[1]),
            ):
                if value and value != other:
                    mistakes.append(
                        f"{variable(name)}={value!r}: region {region} has {other}; both URLs must belong to one region "
                        f"({variable('region')} alone sets both)"
                    )
            return {"host_backend_url": expected[0], "smith_backend_url": expected[1]}
        mistakes += [_missing(name) for name in ("host_backend_url", "smith_backend_url") if not getattr(self, name)]
        return {}


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """Return (variable, nearest setting or "") for each variable with our prefix that is no setting."""
    present = os.environ if environment is None else environment
    known = {name.upper() for name in Settings.model_fields}
    strange = {name.removeprefix(PREFIX): value for name, value in present.items() if name.startswith(PREFIX)}
    return [
        (f"{PREFIX}{name}", next((f"{PREFIX}{near}" for near in difflib.get_close_matches(name, known, 1)), ""))
        for name, value in sorted(strange.items())
        if name not in known and not SERVICE_LINK.fullmatch(f"{PREFIX}{name}={value}")
    ]


def _missing(name: str) -> str:
    return f"{variable(name)} is not set; set it to the {Settings.model_fields[name].description}"


def _explain(cls: type[Settings], problem: ErrorDetails, given: Mapping[str, object]) -> str:
    """Return one line for a mistake that pydantic reports: the variable, its value unless secret, and the fix."""
    text = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return text
    name = str(problem["loc"][0])
    field = cls.model_fields.get(name)
    if field is None:
        near = difflib.get_close_matches(name, cls.model_fields, 1)
        return f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
    value = given.get(name, os.environ.get(variable(name), ""))
    shown = "" if "SecretStr" in str(field.annotation) else f"={_USERINFO.sub('://***@', str(value))!r}"
    if problem["type"] != "value_error":
        text = _rule(cls, name) or f"cannot be used ({text}); set it to the {field.description}"
    colon = "" if text.startswith(_PREDICATES) else ":"
    return f"{variable(name)}{shown}{colon} {text}"


def _rule(cls: type[Settings], name: str) -> str:
    """Return what the type and the constraints of a field require, as a predicate; empty if any text will do."""
    schema = cls.model_json_schema()["properties"][name]
    for option in schema.get("anyOf", ()):  # an optional field; the other option is null
        schema = {**option, **schema}
    if "rule" in schema:
        return f"must {schema['rule']}"
    if "enum" in schema:
        return f"must be one of {', '.join(schema['enum'])}"
    if schema.get("format") == "uuid":
        return f"must be a UUID; set it to the {schema['description']}"
    match schema.get("type"):
        case "boolean":
            return "must be true or false"
        case "integer" | "number" as kind:
            noun = "a whole number" if kind == "integer" else "a number"
            limits = [
                f"{words} {schema[key]:g}" if kind == "number" else f"{words} {schema[key]}"
                for key, words in _LIMITS.items()
                if key in schema
            ]
            unit = " of seconds" if name.endswith("_seconds") else ""
            return f"must be {noun}{unit}" + (f", {' and '.join(limits)}" if limits else "")
    return ""


def _shown(name: str, value: object) -> str:
    if name == "redis_url" and isinstance(value, SecretStr):
        return _without_password(value.get_secret_value())
    if isinstance(value, SecretStr):
        return "set, not shown"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


def _passwords(url: str) -> list[str]:
    """Return the passwords in a URL of Redis, percent-encoded as in the URL."""
    found: list[str | None] = []
    for address in addresses(url):
        parts = urlsplit(address)
        found += [parts.password, *re.findall(r"(?:^|&)password=([^&]+)", parts.query)]
    return [password for password in found if password]


def _without_password(url: str) -> str:
    for password in _passwords(url):
        url = url.replace(f":{password}@", ":***@").replace(f"password={password}", "password=***")
    return url
