"""The configuration of the operator: everything besides the LGP that the operator's decisions depend on.

The log records every change of the configuration, so the configuration has no secrets. Templates are recorded as they
are: a password belongs into a Secret that the template refers to, not into the template.

The fields mirror values of the chart (`ingress`, `gateway`, `istioGateway`, `operator.templates`,
`operator.kedaEnabled`, `clusterDomain`).
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.digests import digest
from engine.errors import SettingsError
from engine.operator import templates


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Templates(_Frozen):
    """Base objects as YAML with `${name}` variables (engine/operator/templates.py lists the variables)."""

    deployment: str = templates.DEPLOYMENT
    """Deployment of an Agent Server, and of its queue workers."""
    service: str = templates.SERVICE
    """Service in front of an Agent Server."""
    db: str = templates.DB
    """StatefulSet of Postgres."""
    redis: str = templates.REDIS
    """Deployment of Redis."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for template in templates.KINDS:
            templates.check(template, getattr(self, template))
        return self


class SharedIngress(_Frozen):
    """One Ingress for all Agent Servers. The chart, or a person, creates the Ingress; the operator keeps its paths."""

    enabled: bool = True
    hostname: str = ""
    """Hostname in the URLs of Agent Servers; may end in `:port`. Empty: the Ingress serves any host, and URLs are those
    inside the cluster."""
    base_path: str = ""
    tls_enabled: bool = True
    """Whether the URLs of Agent Servers begin with https."""
    namespace: str = ""
    """Namespace of the Ingress; empty means the namespace of each LGP."""
    class_name: str = ""


class Gateway(_Frozen):
    """A Gateway (of the Gateway API or of Istio) to which the operator attaches one route for each Agent Server."""

    enabled: bool = False
    name: str = ""
    namespace: str = ""
    """Namespace of the Gateway; empty means the namespace of each LGP."""
    hostname: str = ""
    base_path: str = ""
    tls_enabled: bool = True


class OperatorConfig(_Frozen):
    """Everything besides the LGP that the operator's manifests and decisions depend on. Has no secrets."""

    templates: Templates = Templates()
    ingress: SharedIngress = SharedIngress()
    gateway: Gateway = Gateway()
    istio_gateway: Gateway = Gateway()
    keda_enabled: bool = False
    """Whether KEDA is installed; without KEDA, autoscaling uses HorizontalPodAutoscalers."""
    managed_service_accounts: bool = False
    """Whether the operator may create the ServiceAccounts that LGPs ask for (`spec.managedResources`)."""
    managed_secret_provider_classes: bool = False
    """Whether the operator may create the SecretProviderClasses that LGPs ask for (`spec.managedResources`)."""
    pod_disruption_budgets: bool = False
    """Whether workloads of Agent Servers with at least two replicas get a PodDisruptionBudget. The setting's default is
    true; false stands for configurations that were recorded before this field existed."""
    cluster_domain: str = "cluster.local"
    legacy_database_suffix: str = "postgres"
    """Suffix in the names of a database with `legacyName`: `<LGP>-<suffix>`."""
    database_cpu: str = "1"
    """CPU request, in cores, of a database when the LGP names none; the limit is twice the request."""
    database_memory_mb: int = Field(default=2048, ge=1)
    """Memory request, in MiB, of a database when the LGP names none; the limit is twice the request."""
    revision_history_limit: int | None = Field(default=None, ge=0)
    """Number of old ReplicaSets that a Deployment keeps if its template names none; None: the default of Kubernetes."""
    redis_key_prefix: bool = False
    """Whether an Agent Server with a Redis that the operator does not make gets its own prefix for its keys there."""

    @property
    def digest(self) -> str:
        """Digest of the configuration, by which events name it."""
        return digest(self.model_dump(mode="json"))

    @property
    def exposure(self) -> SharedIngress | Gateway | None:
        """The enabled one of ingress, gateway and istio_gateway; None without one."""
        return next((exposure for exposure in self._exposures().values() if exposure.enabled), None)

    def _exposures(self) -> dict[str, SharedIngress | Gateway]:
        """Return the exposures by their names in the chart's values."""
        return {"ingress": self.ingress, "gateway": self.gateway, "istioGateway": self.istio_gateway}

    @model_validator(mode="after")
    def _one_exposure(self) -> Self:
        """Raises SettingsError when more than one exposure is enabled, or a Gateway has no name."""
        enabled = {name: exposure for name, exposure in self._exposures().items() if exposure.enabled}
        if len(enabled) > 1:
            raise SettingsError(
                f"only one of ingress, gateway, istioGateway may be enabled, not {' and '.join(enabled)}; disable the "
                "others"
            )
        for name, exposure in enabled.items():
            if isinstance(exposure, Gateway) and not exposure.name:
                raise SettingsError(f"{name}.name is empty; set it to the name of the Gateway that serves the routes")
        return self
