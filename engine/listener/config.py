"""What the listener's decisions depend on besides events. The log records it, so it holds no secret."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.agent_path import agent_path


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
    """`langsmith`: only callers with an API key of the workspace may call an Agent Server; `noop`: every caller may."""

    queue_enabled: bool = True
    """Separate queue workers (the default of the LGP)."""

    routed: bool = True
    """Whether an Ingress or a gateway routes to Agent Servers."""
    hostname: str = ""
    base_path: str = ""
    tls: bool = True

    rollout_deadline: float = 900.0
    failure_grace: float = 60.0
    """How long a pod may fail (image pull, crash loop) before its revision fails."""
    stop_failed: bool = False
    """Whether a failed revision is scaled to zero if no revision served before it."""
    health_check: bool = True
    health_deadline: float = 300.0
    health_interval: float = 1.0
    """Time between the first two health checks; grows by half with each check, up to fifteen seconds."""

    def watches(self, namespace: str) -> bool:
        """Whether this data plane may deploy to `namespace`."""
        return namespace in self.namespaces

    def endpoint(self, lgp: str) -> str:
        """Return the URL of an Agent Server, without a trailing slash; empty if it has no route."""
        if not (self.routed and self.hostname):
            return ""
        return f"{'https' if self.tls else 'http'}://{self.hostname}{agent_path(self.base_path, lgp)}"
