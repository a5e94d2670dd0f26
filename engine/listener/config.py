"""What the listener's decisions depend on besides events; recorded in the log, free of secrets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.names import route_path


class ListenerConfig(BaseModel):
    """Configuration of the listener component. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listener_id: str
    workspace_id: str
    namespaces: tuple[str, ...]
    """Where this data plane may deploy."""

    smith_url: str
    """LangSmith API that Agent Servers trace to and authenticate against."""
    tracing: bool = True
    agent_auth: Literal["langsmith", "noop"] = "langsmith"
    """Who may call an Agent Server: holders of a key of the workspace, or anybody who reaches it."""

    queue_enabled: bool = True
    """Separate queue workers (the default of the LGP)."""

    routed: bool = True
    """Whether an ingress or gateway leads to Agent Servers."""
    hostname: str = ""
    base_path: str = ""
    tls: bool = True

    rollout_deadline: float = 900.0
    failure_grace: float = 60.0
    """How long a failing pod (image pull, crash loop) is watched before its revision is given up."""
    stop_failed: bool = False
    """Whether a revision that failed, and before which none served, is scaled to nothing."""
    health_check: bool = True
    health_deadline: float = 300.0
    health_interval: float = 1.0
    """Before the second health check; grows by half each time, up to fifteen seconds."""

    def watches(self, namespace: str) -> bool:
        """Whether this data plane may deploy there."""
        return namespace in self.namespaces

    def endpoint(self, lgp: str) -> str:
        """Return the URL of an Agent Server, without a trailing slash; empty when nothing leads there."""
        if not (self.routed and self.hostname):
            return ""
        return f"{'https' if self.tls else 'http'}://{self.hostname}{route_path(self.base_path, lgp)}"
