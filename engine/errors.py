"""Every error of the engine, and for each one whether a retry can help.

Only `runtime.advance` reads `retryable`: a retryable error becomes a deferral with a time, any other error a refusal
that waits for new input. Messages name the field, the value and the fix. They never contain a secret value.
"""

from __future__ import annotations

from typing import ClassVar


class AgentplaneError(Exception):
    """Root of the hierarchy."""

    retryable: ClassVar[bool] = False


# --- settings and input ------------------------------------------------------------------------------------


class SettingsError(AgentplaneError):
    """A setting is missing or wrong; the message names the variable and the fix."""


class InvalidResource(AgentplaneError):
    """A deployment of the control plane has a field that the listener cannot interpret; `field` is its path."""

    def __init__(self, resource: str, field: str, problem: str) -> None:
        self.resource = resource
        self.field = field
        self.problem = problem
        super().__init__(f"{resource}: {field}: {problem}")


# --- event log ---------------------------------------------------------------------------------------------


class EventLogError(AgentplaneError):
    """Root of the errors of the event log."""


class ConcurrencyConflict(EventLogError):
    """Another writer has appended: the stream is not at the expected version."""

    retryable = True

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        self.stream = stream
        self.expected = expected
        self.actual = actual
        super().__init__(f"stream {stream} is at version {actual}, expected {expected}; read it again and retry")


class LockHeld(EventLogError):
    """Another worker advances this stream."""

    retryable = True


class LockLost(EventLogError):
    """The lock expired, or another worker holds it; this worker may not write any more."""

    retryable = True


class FutureEvent(EventLogError):
    """This program does not know the type or schema version of an event. An upgrade helps; nothing is lost."""


class LogUnavailable(EventLogError):
    """Redis cannot be reached, or cannot serve the log."""

    retryable = True


class TrimRefused(EventLogError):
    """A stream still needs events that should be deleted."""


class SnapshotUnreadable(EventLogError):
    """The snapshot of a trimmed stream is missing, or this program cannot read its state."""


class ImportRefused(EventLogError):
    """An imported file is damaged, has a newer format, or contradicts the events of the log."""


# --- control plane -----------------------------------------------------------------------------------------


class ControlPlaneError(AgentplaneError):
    """Root of the errors of the control plane's client. `retry_after` is seconds; None when the server gave none."""

    retry_after: float | None = None


class ControlPlaneUnavailable(ControlPlaneError):
    """The control plane gave no answer, a 5xx or an unreadable body."""

    retryable = True


class ControlPlaneThrottled(ControlPlaneError):
    """429; `retry_after` has the seconds of Retry-After."""

    retryable = True

    def __init__(self, message: str, retry_after: float | None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ControlPlaneDenied(ControlPlaneError):
    """401 or 403: the API key or the workspace is wrong; the message names the settings."""


class ControlPlaneNotFound(ControlPlaneError):
    """404: the deployment, revision or listener does not exist in this workspace."""


class ReportRefused(ControlPlaneError):
    """The control plane refuses this status report (400, 404, 409, 422): it has newer data, or no such deployment."""


class ReportsUnsupported(ReportRefused):
    """The control plane accepts no status reports on this route (403, 405, or a 404 that is about the route)."""


# --- cluster -----------------------------------------------------------------------------------------------


class ClusterError(AgentplaneError):
    """Root of the errors of the Kubernetes client. `reason` is the `Status.reason` of the API server.

    `retry_after` is seconds; None when the server gave none.
    """

    retry_after: float | None = None

    def __init__(self, message: str, *, reason: str = "", status: int = 0) -> None:
        self.reason = reason
        self.status = status
        super().__init__(message)


class ClusterUnavailable(ClusterError):
    """The API server gave no answer, a 5xx or 429, or the connection broke."""

    retryable = True


class ObjectConflict(ClusterError):
    """409: the object has changed since it was read."""

    retryable = True


class ObjectRefused(ClusterError):
    """The API server rejects this object (400, 403, 404 of its kind or namespace, 422); its message says why."""


class NamespaceHeld(ClusterError):
    """Another data plane holds the namespace, so nothing may be written there."""

    def __init__(self, namespace: str, holder: str) -> None:
        super().__init__(f"namespace {namespace} is held by data plane {holder!r}")


class WatchExpired(ClusterError):
    """410 Gone: the resourceVersion is too old; list again."""

    retryable = True
