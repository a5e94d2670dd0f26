"""Refusals of the API server: one exception with a `Status` body, and constructors for the usual ones.

Clients use `reason` and `code` and show `message`, so the constructors use the wording of a real server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Cause = tuple[str, str, str]
"""(reason, message, field), e.g. ("FieldValueRequired", "Required value", "spec.selector")."""

Causes = list[Cause]
"""The causes of one refusal; each check of a request appends to it."""


class ApiError(Exception):
    """The API server refuses a request; `body()` is the `Status` object for the client."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        if retry_after is not None:
            self.details["retryAfterSeconds"] = retry_after

    def body(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.details.pop("_metadata", {}),
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}


class NotStrict(ApiError):
    """A body has unknown or repeated fields, and the request asked for strict validation."""

    def __init__(self, prefix: str, faults: Sequence[str]) -> None:
        self.words = f"strict decoding error: {', '.join(faults)}"
        super().__init__(400, "BadRequest", prefix + self.words)


def _named(group: str, plural: str, name: str) -> dict[str, Any]:
    details = {"name": name, "group": group, "kind": plural}
    return {key: value for key, value in details.items() if value}


def qualified(group: str, plural: str) -> str:
    """Return the full name of a resource: `deployments.apps`, or `pods` in the core group."""
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(group, plural)} "{name}" not found'
    return ApiError(404, "NotFound", message, _named(group, plural, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(group, plural)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _named(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _named(group, plural, name))


def modified(group: str, plural: str, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(group, plural, name, why)


def forbidden(group: str, plural: str, name: str, why: str, causes: Sequence[Cause] = ()) -> ApiError:
    details = _named(group, plural, name)
    if causes:
        details["causes"] = _causes(causes)
    return ApiError(403, "Forbidden", f'{qualified(group, plural)} "{name}" is forbidden: {why}', details)


def _causes(causes: Sequence[Cause]) -> list[dict[str, str]]:
    return [{"reason": reason, "message": message, "field": field} for reason, message, field in causes]


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """Return a 422 with one cause per field, in the wording of Kubernetes' field.ErrorList."""
    words = [f"{field}: {message}" for _, message, field in causes]
    text = words[0] if len(words) == 1 else f"[{', '.join(words)}]"
    details = {**_named(group, kind, name), "causes": _causes(causes)}
    return ApiError(422, "Invalid", f'{qualified(group, kind)} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media_type(offered: str, accepted: Sequence[str]) -> ApiError:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    del offered
    return ApiError(415, "UnsupportedMediaType", message)


def unsupported_option(options: str, name: str, value: str, choices: Sequence[str]) -> ApiError:
    """Return a 422 for a query parameter of a write; `options` is CreateOptions, UpdateOptions or PatchOptions."""
    return invalid("meta.k8s.io", options, "", [unsupported(name, value, choices)])


def required(field: str, detail: str = "") -> Cause:
    return ("FieldValueRequired", "Required value" + (f": {detail}" if detail else ""), field)


def wrong(field: str, value: Any, detail: str) -> Cause:
    return ("FieldValueInvalid", f"Invalid value: {show(value)}: {detail}", field)


def duplicate(field: str, value: Any) -> Cause:
    return ("FieldValueDuplicate", f"Duplicate value: {show(value)}", field)


def unsupported(field: str, value: Any, choices: Sequence[Any]) -> Cause:
    listed = ", ".join(show(choice) for choice in choices)
    return ("FieldValueNotSupported", f"Unsupported value: {show(value)}: supported values: {listed}", field)


def disallowed(field: str, detail: str) -> Cause:
    return ("FieldValueForbidden", f"Forbidden: {detail}", field)


def show(value: Any) -> str:
    """Return a value as Go prints it in a field error: strings quoted, other values as JSON."""
    import orjson

    return orjson.dumps(value).decode()
