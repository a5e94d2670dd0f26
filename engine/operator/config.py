"""What the operator's decisions depend on besides the LGP: recorded in the log whenever it changes, free of secrets.

It mirrors the values that users of the chart know (`ingress`, `gateway`, `istioGateway`, `operator.templates`,
`operator.kedaEnabled`, `clusterDomain`). Templates are recorded as they are: a password belongs into a Secret that the
template refers to, not into the template.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.errors import SettingsError
from engine.operator import templates


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Templates(_Frozen):
    """Base objects as YAML with `${name}` variables (engine/operator/templates.py says which)."""

    deployment: str = templates.DEPLOYMENT
    """Of API servers and of queue workers."""
    service: str = templates.SERVICE
    """In front of API servers."""
    db: str = templates.DB
    """Postgres, a StatefulSet."""
    redis: str = templates.REDIS

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for template in templates.KINDS:
            templates.check(template, getattr(self, template))
        return self


class SharedIngress(_Frozen):
    """One Ingress for all Agent Servers, whose paths the operator keeps; the chart, or somebody else, creates it."""

    enabled: bool = True
    hostname: str = ""
    """What people reach Agent Servers by; may end in `:port`. Empty: any host, and only known inside the cluster."""
    base_path: str = ""
    tls_enabled: bool = True
    """Whether people use https."""
    namespace: str = ""
    """Where the Ingress is; empty means the namespace of each LGP."""
    class_name: str = ""


class Gateway(_Frozen):
    """A Gateway (of the Gateway API or of Istio) that one route per Agent Server hangs on."""

    enabled: bool = False
    name: str = ""
    namespace: str = ""
    """Where the Gateway is; empty means the namespace of each LGP."""
    hostname: str = ""
    base_path: str = ""
    tls_enabled: bool = True


class OperatorConfig(_Frozen):
    """Everything that the operator's manifests and decisions depend on besides the LGP. Holds no secrets."""

    templates: Templates = Templates()
    ingress: SharedIngress = SharedIngress()
    gateway: Gateway = Gateway()
    istio_gateway: Gateway = Gateway()
    keda_enabled: bool = False
    """Whether KEDA is installed; without it autoscaling uses HorizontalPodAutoscalers."""
    managed_service_accounts: bool = False
    """Whether the operator may make the ServiceAccounts that LGPs ask for (`spec.managedResources`)."""
    managed_secret_provider_classes: bool = False
    """Whether it may make SecretProviderClasses."""
    pod_disruption_budgets: bool = False
    """Whether workloads of Agent Servers with at least two replicas get a PodDisruptionBudget. The setting's default is
    true; a configuration that was recorded before there was one made none."""
    cluster_domain: str = "cluster.local"
    legacy_database_suffix: str = "postgres"
    """Objects of a database with `legacyName` are called `<LGP>-<this>`."""
    database_cpu: str = "1"
    """CPU request of a database whose LGP names none; the limit is twice that."""
    database_memory_mb: int = Field(default=2048, ge=1)
    """Memory request in MiB of a database whose LGP names none; the limit is twice that."""
    revision_history_limit: int | None = Field(default=None, ge=0)
    """Empty ReplicaSets that a Deployment keeps, where its template does not say; None: as many as Kubernetes does."""
    redis_key_prefix: bool = False
    """Whether an Agent Server that brings a Redis of its own gets a prefix of its own for its keys there."""

    @model_validator(mode="after")
    def _one_route(self) -> Self:
        """Raises SettingsError when more than one way in is enabled, or a gateway has no name."""
        ways: dict[str, SharedIngress | Gateway] = {
            "ingress": self.ingress,
            "gateway": self.gateway,
            "istioGateway": self.istio_gateway,
        }
        enabled = [name for name, way in ways.items() if way.enabled]
        if len(enabled) > 1:
            raise SettingsError(
                f"only one of ingress, gateway, istioGateway may be enabled, not {' and '.join(enabled)}"
            )
        for name in enabled:
            way = ways[name]
            if isinstance(way, Gateway) and not way.name:
                raise SettingsError(f"{name}.name is empty; set it to the name of the Gateway that routes hang on")
        return self

    @property
    def way_in(self) -> SharedIngress | Gateway | None:
        """The enabled one of ingress, gateway and istio_gateway."""
        ways: tuple[SharedIngress | Gateway, ...] = (self.ingress, self.gateway, self.istio_gateway)
        return next((way for way in ways if way.enabled), None)
