"""Every error of the engine, and for each one whether trying again can help.

`retryable` is read in one place only, `runtime.advance`: a passing failure becomes a timed retry, a permanent one
waits for new input. Messages name the thing, the value and the mend; they never hold a secret value.
"""

from __future__ import annotations

from typing import ClassVar


class AgentplaneError(Exception):
    """Root of the hierarchy."""

    retryable: ClassVar[bool] = False


# --- settings and input ------------------------------------------------------------------------------------


class SettingsError(AgentplaneError):
    """A setting is missing or wrong; the message names it."""


class InvalidResource(AgentplaneError):
    """A deployment of the control plane that cannot be understood; carries the path of the field."""

    def __init__(self, resource: str, field: str, problem: str) -> None:
        self.resource = resource
        self.field = field
        self.problem = problem
        super().__init__(f"{resource}: {field}: {problem}")


# --- event log ---------------------------------------------------------------------------------------------


class EventLogError(AgentplaneError):
    """Root of what the event log raises."""


class ConcurrencyConflict(EventLogError):
    """Somebody appended first: the stream is not at the expected version."""

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
    """The lock ran out or went to another worker; nothing more may be written."""

    retryable = True


class FutureEvent(EventLogError):
    """An event whose type or schema version this program does not know: upgrade, nothing is lost."""


class LogUnavailable(EventLogError):
    """Redis does not answer."""

    retryable = True


class TrimRefused(EventLogError):
    """A stream still needs the events that were to be deleted."""


class SnapshotUnreadable(EventLogError):
    """A trimmed stream whose snapshot is missing, or holds a state that this program does not know."""


class ImportRefused(EventLogError):
    """An imported file is damaged, or would overwrite events that differ."""


# --- control plane -----------------------------------------------------------------------------------------


class ControlPlaneError(AgentplaneError):
    """Root of what the control plane adapter raises; `retry_after` is seconds, when the server named some."""

    retry_after: float | None = None


class ControlPlaneUnavailable(ControlPlaneError):
    """No answer, a 5xx or an unreadable body."""

    retryable = True


class ControlPlaneThrottled(ControlPlaneError):
    """429; `retry_after` holds the seconds of Retry-After."""

    retryable = True

    def __init__(self, message: str, retry_after: float | None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ControlPlaneDenied(ControlPlaneError):
    """401 or 403: the key or the workspace is wrong; the message names the setting."""


class ControlPlaneNotFound(ControlPlaneError):
    """404: the deployment, revision or listener does not exist in this workspace."""


class ReportRefused(ControlPlaneError):
    """The control plane refuses this status report (409, 422): it knows better, or the deployment is gone."""


class ReportsUnsupported(ReportRefused):
    """The control plane takes no status reports on this route (403, 404 without a JSON detail of ours, 405)."""


# --- cluster -----------------------------------------------------------------------------------------------


class ClusterError(AgentplaneError):
    """Root of what the cluster adapter raises; `reason` is the `Status.reason` of the API server.

    `retry_after` is seconds, when the server named some.
    """

    retry_after: float | None = None

    def __init__(self, message: str, *, reason: str = "", status: int = 0) -> None:
        self.reason = reason
        self.status = status
        super().__init__(message)


class ClusterUnavailable(ClusterError):
    """No answer, a 5xx, 429 or a broken connection."""

    retryable = True


class ObjectConflict(ClusterError):
    """409: the object changed since it was read."""

    retryable = True


class ObjectRefused(ClusterError):
    """The API server rejects this object (400, 403, 404 of its kind or namespace, 422): its message says why."""


class NamespaceHeld(ClusterError):
    """Another data plane holds the namespace; nothing may be written there."""

    def __init__(self, namespace: str, holder: str) -> None:
        super().__init__(f"namespace {namespace} is held by data plane {holder!r}")


class WatchExpired(ClusterError):
    """410 Gone: the resourceVersion is too old; list again."""

    retryable = True
