"""`agentplane up` and `agentplane demo`: start the sandbox, an extra that production never installs."""

from __future__ import annotations

from enum import StrEnum

from engine.errors import AgentplaneError


class ClusterName(StrEnum):
    """Which Kubernetes to use; the names are the sandbox's own."""

    EMBEDDED = "embedded"
    ENVTEST = "envtest"
    CURRENT = "current"


class SandboxMissing(AgentplaneError):
    """The sandbox extra is not installed."""


def demo(cluster: ClusterName, *, keep: bool) -> int:
    """Run the demo; return its exit code. Raises SandboxMissing."""
    try:
        from sandbox.demo.runner import demo as run
        from sandbox.stack import Cluster
    except ImportError as error:
        raise _missing(error) from error
    return run(Cluster(cluster), keep=keep)


def up(cluster: ClusterName) -> int:
    """Run the stack in the foreground until interrupted; return the exit code. Raises SandboxMissing."""
    try:
        from sandbox.foreground import up as run
        from sandbox.stack import Cluster
    except ImportError as error:
        raise _missing(error) from error
    return run(Cluster(cluster))


def _missing(error: ImportError) -> SandboxMissing:
    return SandboxMissing(
        f"this command needs the sandbox ({error.name} is not installed); install it: pip install 'agentplane[sandbox]'"
    )
