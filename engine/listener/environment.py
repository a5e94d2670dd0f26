"""The environment that the platform gives to every Agent Server, and the names that a deployment may not set itself.

Sources of the names: the platform's documentation of reserved variables, and observation of the Agent Server (`/info`
takes `host.revision_id` from LANGSMITH_LANGGRAPH_API_REVISION; without LANGSMITH_AUTH_ENDPOINT, usage reports go to the
public LangSmith, whatever the configured control plane is).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.event import JsonObject
from engine.listener.config import ListenerConfig

RESERVED = frozenset(
    {
        "DATABASE_URI",
        "LANGCHAIN_API_KEY",
        "LANGCHAIN_ENDPOINT",
        "LANGCHAIN_PROJECT",
        "LANGCHAIN_TRACING_V2",
        "LANGGRAPH_AUTH_TYPE",
        "LANGSMITH_AUTH_ENDPOINT",
        "LANGSMITH_AUTH_VERIFY_TENANT_ID",
        "LANGSMITH_CONTROL_PLANE_API_KEY",
        "LANGSMITH_DEPLOYMENT_NAME",
        "LANGSMITH_HOST_PROJECT_ID",
        "LANGSMITH_HOST_PROJECT_NAME",
        "LANGSMITH_HOST_REVISION_ID",
        "LANGSMITH_LANGGRAPH_API_REVISION",
        "LANGSMITH_PROJECT",
        "LANGSMITH_TENANT_ID",
        "LANGSMITH_TRACING_V2",
        "LOG_JSON",
        "MOUNT_PREFIX",
        "PATH",
        "PORT",
        "POSTGRES_URI",
        "REDIS_URI",
    }
)

KEY_VARIABLES = ("LANGCHAIN_API_KEY", "LANGSMITH_CONTROL_PLANE_API_KEY")
"""Variables that take the workspace's LangSmith API key from the revision's Secret."""

API_KEY_FIELD = "agentplane-langsmith-api-key"
"""Key of the revision's Secret that holds the LangSmith API key; no environment variable can have this name."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def reserved_names(names: Iterable[str]) -> list[str]:
    """Return the names that only the platform may set, sorted."""
    return sorted(RESERVED.intersection(names))


def malformed_names(names: Iterable[str]) -> list[str]:
    """Return the names that cannot be environment variables of a container, sorted."""
    return sorted(name for name in names if not _VARIABLE.fullmatch(name))


def platform_environment(
    config: ListenerConfig, *, deployment_id: str, deployment_name: str, revision_id: str, secret: str
) -> list[JsonObject]:
    """Return the `env` entries that the platform sets, sorted by name. The API key comes by Secret reference only."""
    tracing = "true" if config.tracing else "false"
    values = {
        "LANGCHAIN_ENDPOINT": config.smith_url,
        "LANGCHAIN_PROJECT": deployment_name,
        "LANGCHAIN_TRACING_V2": tracing,
        "LANGGRAPH_AUTH_TYPE": config.agent_auth,
        "LANGSMITH_AUTH_ENDPOINT": config.smith_url,
        "LANGSMITH_AUTH_VERIFY_TENANT_ID": "true",
        "LANGSMITH_DEPLOYMENT_NAME": deployment_name,
        "LANGSMITH_HOST_PROJECT_ID": deployment_id,
        "LANGSMITH_HOST_PROJECT_NAME": deployment_name,
        "LANGSMITH_HOST_REVISION_ID": revision_id,
        "LANGSMITH_LANGGRAPH_API_REVISION": revision_id,
        "LANGSMITH_PROJECT": deployment_name,
        "LANGSMITH_TENANT_ID": config.workspace_id,
        "LANGSMITH_TRACING_V2": tracing,
        "LOG_JSON": "true",
    }
    if not config.tracing:
        # The Agent Server reads this variable before the others, and sets it itself where there is an API key.
        values["LANGSMITH_TRACING"] = "false"
    literal = [{"name": name, "value": value} for name, value in values.items()]
    keys = [secret_variable(name, secret, API_KEY_FIELD) for name in KEY_VARIABLES]
    return sorted([*literal, *keys], key=lambda entry: entry["name"])


def secret_variable(name: str, secret: str, key: str) -> JsonObject:
    """Return an `env` entry that takes its value from a key of a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
