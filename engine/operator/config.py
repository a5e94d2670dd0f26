"""What the operator's decisions depend on besides the LGP: recorded in the log whenever it changes, free of secrets."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Templates(_Frozen):
    """Base objects as YAML with `${name}` variables; the values `operator.templates.*` of the chart."""

    deployment: str = ""
    service: str = ""
    db: str = ""
    redis: str = ""


class SharedIngress(_Frozen):
    """One Ingress for all Agent Servers, whose paths the operator keeps; somebody else creates it."""

    enabled: bool = True
    hostname: str = ""
    """What people reach Agent Servers by; may end in `:port`."""
    base_path: str = ""
    tls_enabled: bool = True
    namespace: str = ""
    """Where the Ingress is; empty means the namespace of each LGP."""
    class_name: str = ""


class Gateway(_Frozen):
    """A Gateway (Gateway API) or an Istio Gateway that a route per Agent Server hangs on."""

    enabled: bool = False
    name: str = ""
    namespace: str = ""
    hostname: str = ""
    base_path: str = ""
    tls_enabled: bool = True


class OperatorConfig(_Frozen):
    """Everything that manifests and decisions of the operator depend on besides the LGP. Holds no secrets."""

    templates: Templates = Templates()
    ingress: SharedIngress = SharedIngress()
    gateway: Gateway = Gateway()
    istio_gateway: Gateway = Gateway()
    keda_enabled: bool = False
    cluster_domain: str = "cluster.local"
    failure_grace_seconds: float = 60.0
    """How long a workload may look broken before it counts as Degraded."""
