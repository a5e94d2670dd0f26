"""The control plane's public API over HTTP, as one workspace sees it.

One client with persistent HTTP/1.1 connections. It returns unvalidated JSON: it checks the shape only as far as paging
needs it; the listener interprets the content. The errors:

    no answer, a timeout, a TLS or DNS failure, 5xx,      ControlPlaneUnavailable
    a redirect, broken or truncated JSON, another shape
    429                                                   ControlPlaneThrottled, with the seconds of Retry-After (a
                                                          number or a date, at most an hour)
    401, 403                                              ControlPlaneDenied, which names the settings
    404 of one resource, with a JSON `detail`             ControlPlaneNotFound
    404 of anything else                                  ControlPlaneUnavailable: the URL leads to another program,
                                                          which says nothing about deployments
    any other 4xx                                         ControlPlaneRejected

The routes for status reports are not public, so they are settings. 403, 405 and a 404 that is not about the deployment
mean that the control plane accepts no reports on the route (ReportsUnsupported). Any other refusal is about the one
report (ReportRefused).

Messages contain the URL, the status and a short `detail` of the answer, never a body and never a key.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import httpx
import orjson

from engine.control_plane.network_policy import may_forbid
from engine.errors import (
    ControlPlaneDenied,
    ControlPlaneError,
    ControlPlaneNotFound,
    ControlPlaneThrottled,
    ControlPlaneUnavailable,
    ReportRefused,
    ReportsUnsupported,
    SettingsError,
)
from engine.event import Json, JsonObject
from engine.settings import Settings, variable

PAGE = 100
"""Resources per page; the API returns no more."""
LONGEST_RETRY_AFTER = 3600.0
"""Seconds; a longer Retry-After counts as this."""
LARGEST_ANSWER = 256 * 1024 * 1024
"""Bytes; a page of a hundred deployments is far smaller."""
PATIENCE = 4
"""A slow answer may take this many times the read timeout in total."""
NO_ROUTE = frozenset({"Not Found", "Method Not Allowed"})
"""Details that a web framework gives by itself: they are about the route, not about a deployment."""


class ControlPlaneRejected(ControlPlaneError):
    """Any other 4xx: the control plane refuses the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete, undecoded answer."""

    method: str
    url: str
    status: int
    headers: httpx.Headers
    content: bytes
    key: str = field(repr=False)
    """The API key, which a detail may repeat."""

    def json(self) -> Json:
        """Return the decoded body. Raises ControlPlaneUnavailable if it is not JSON."""
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError as error:
            raise ControlPlaneUnavailable(
                f"{self}: broken or truncated JSON ({len(self.content)} bytes of "
                f"{self.headers.get('Content-Type', 'no content type')}): {error.msg} at {error.pos}"
            ) from None

    @property
    def detail(self) -> str:
        """The API's reason for a refusal, in one line; empty if the body is not JSON."""
        try:
            detail = orjson.loads(self.content)["detail"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return ""
        if isinstance(detail, list):  # validation errors: path and message, without the repeated input
            problems = [problem for problem in detail if isinstance(problem, dict)]
            parts = [f"{'.'.join(map(str, p.get('loc', ())))}: {p.get('msg', '')}" for p in problems]
            return self._short("; ".join(parts))
        return self._short(str(detail))

    def _short(self, text: str) -> str:
        if self.key:
            text = text.replace(self.key, "***")
        return " ".join(text.split())[:300]

    def __str__(self) -> str:
        phrase = HTTPStatus(self.status).phrase if self.status in HTTPStatus._value2member_map_ else ""
        detail = f": {self.detail}" if self.status >= 400 and self.detail else ""
        return f"{self.method} {self.url}: {self.status} {phrase}".rstrip() + detail


class HttpControlPlane:
    """`ports.ControlPlane` over HTTP. Threads can share it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        workspace_id: str,
        connect_seconds: float = 5.0,
        read_seconds: float = 15.0,
        report_revision_route: str = "",
        report_deployment_route: str = "",
        ca_file: Path | None = None,
        network_policy: str = "",
    ) -> None:
        """`read_seconds` is the read timeout; a route is `METHOD /path`, or empty for no reports.

        `network_policy` is the name of the NetworkPolicy that limits the connections of this process, if there is one.
        """
        self._url = url.rstrip("/")
        self._headers = {"X-Api-Key": api_key, "X-Tenant-Id": workspace_id, "Accept": "application/json"}
        self._timeout = httpx.Timeout(read_seconds, connect=connect_seconds)
        self._deadline = PATIENCE * read_seconds + connect_seconds
        self._routes = {
            "report_revision_route": report_revision_route,
            "report_deployment_route": report_deployment_route,
        }
        self._verify = _verification(ca_file)
        self._network_policy = network_policy
        self._client: tuple[int, httpx.Client] | None = None
        """Id of the process that made the client, and the client."""

    @classmethod
    def from_settings(cls, settings: Settings) -> HttpControlPlane:
        """Return the client of the control plane in `settings`. Opens no connection yet."""
        return cls(
            settings.host_backend_url,
            api_key=settings.langsmith_api_key.get_secret_value() if settings.langsmith_api_key else "",
            workspace_id=str(settings.workspace_id or ""),
            connect_seconds=settings.connect_timeout_seconds,
            read_seconds=settings.request_timeout_seconds,
            report_revision_route=settings.report_revision_route,
            report_deployment_route=settings.report_deployment_route,
            ca_file=settings.control_plane_ca_file,
            network_policy=settings.network_policy,
        )

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and client[0] == os.getpid():
            client[1].close()

    # --- reading

    def deployments(self) -> Iterator[Sequence[JsonObject]]:
        offset = 0
        while True:
            answer = self._send("GET", "/v2/deployments", query={"limit": PAGE, "offset": offset})
            if answer.status != 200:
                self._refuse_list(answer)
            body = self._decoded(answer)
            page = body.get("resources") if isinstance(body, dict) else None
            if not isinstance(page, list) or not all(isinstance(resource, dict) for resource in page):
                raise ControlPlaneUnavailable(f"{answer}: not a list of deployments; {self._check_url()}")
            if page:
                yield page
            if len(page) < PAGE:
                return
            # `offset` starts the next page. If the API returns none, or repeats ours, count the resources.
            following = body.get("offset")
            counted = offset + len(page)
            offset = following if isinstance(following, int) and offset < following <= counted else counted

    def deployment(self, deployment_id: str) -> JsonObject:
        return self._resource(f"/v2/deployments/{quote(deployment_id, safe='')}")

    def listener(self, listener_id: str) -> JsonObject:
        return self._resource(f"/v2/listeners/{quote(listener_id, safe='')}")

    # --- writing

    def publish_version(self, listener_id: str, version: str) -> None:
        """Publish the running version. Raises ControlPlaneDenied also if the API does not accept it."""
        answer = self._send("PATCH", f"/v2/listeners/{quote(listener_id, safe='')}", body={"version": version})
        if 400 <= answer.status < 500 and answer.status not in (401, 429):
            raise ControlPlaneDenied(f"{answer}; the listener's version is not published; nothing else depends on it")
        self._expect(answer)

    def report_revision(
        self, deployment_id: str, revision_id: str, status: str, *, reason: str | None, message: str | None
    ) -> None:
        answer = self._report(
            "report_revision_route",
            {"deployment_id": deployment_id, "revision_id": revision_id},
            {"status": status, "reason": reason, "message": message},
        )
        self._reported(answer, "report_revision_route")

    def report_deployment(self, deployment_id: str, status: str, *, reason: str | None) -> None:
        answer = self._report(
            "report_deployment_route", {"deployment_id": deployment_id}, {"status": status, "reason": reason}
        )
        if status == "DELETED" and answer.status == 404:
            return  # the deployment is gone, as the report says
        self._reported(answer, "report_deployment_route")

    def publish_endpoint(self, deployment_id: str, url: str) -> None:
        answer = self._send(
            "PATCH", f"/v2/deployments/{quote(deployment_id, safe='')}", body={"source_config": {"custom_url": url}}
        )
        if 400 <= answer.status < 500 and answer.status not in (401, 429):
            raise ReportRefused(f"{answer}; the deployment's URL is not shown there; nothing else depends on it")
        self._expect(answer)

    # --- parts

    def _resource(self, path: str) -> JsonObject:
        answer = self._send("GET", path)
        if answer.status == 404:
            if not answer.detail:
                raise ControlPlaneUnavailable(f"{answer}: not the answer of a control plane; {self._check_url()}")
            raise ControlPlaneNotFound(str(answer))
        self._expect(answer)
        body = self._decoded(answer)
        if not isinstance(body, dict) or "id" not in body:
            raise ControlPlaneUnavailable(f"{answer}: not a resource with an id; {self._check_url()}")
        return body

    def _report(self, setting: str, ids: Mapping[str, str], body: JsonObject) -> Answer:
        route = self._routes[setting]
        if not route:
            raise ReportsUnsupported(f"status reports are off ({variable(setting)} is empty)")
        method, _, template = route.partition(" ")
        return self._send(
            method, template.format(**{key: quote(value, safe="") for key, value in ids.items()}), body=body
        )

    def _reported(self, answer: Answer, setting: str) -> None:
        """Raise the error for the answer to a report, if it is one."""
        status = answer.status
        if status in (403, 405) or (status == 404 and answer.detail in ("", *NO_ROUTE)):
            raise ReportsUnsupported(
                f"{answer}; the control plane accepts no reports on this route; correct {variable(setting)}, or set "
                "it to off"
            )
        if status in (400, 404, 409, 422):
            raise ReportRefused(str(answer))
        self._expect(answer)

    def _refuse_list(self, answer: Answer) -> NoReturn:
        if answer.status in (404, 405):
            raise ControlPlaneUnavailable(f"{answer}; there is no control plane at this URL: {self._check_url()}")
        self._expect(answer)
        raise ControlPlaneUnavailable(f"{answer}: not the list of deployments; {self._check_url()}")

    def _decoded(self, answer: Answer) -> Json:
        """Return the decoded body. A body that is not JSON may come from another server."""
        try:
            return answer.json()
        except ControlPlaneUnavailable as error:
            raise ControlPlaneUnavailable(f"{str(error).rstrip('.')}; {self._check_url()}") from None

    def _check_url(self) -> str:
        return f"check {variable('host_backend_url')} (now {self._url}) or {variable('region')}"

    def _expect(self, answer: Answer) -> None:
        """Raise the error for a status other than 2xx."""
        status = answer.status
        if 200 <= status < 300:
            return
        if status in (401, 403):
            raise ControlPlaneDenied(
                f"{str(answer).rstrip('.')}; check {variable('langsmith_api_key')}, {variable('workspace_id')} and "
                f"that both belong to {self._url}"
            )
        after = retry_after(answer.headers)
        if status == 429:
            raise ControlPlaneThrottled(
                f"{answer}; the API asks to wait {'a while' if after is None else f'{after:g} s'}", after
            )
        if status >= 500 or status < 200:
            error = ControlPlaneUnavailable(str(answer))
            error.retry_after = after
            raise error
        if status < 400:
            raise ControlPlaneUnavailable(f"{answer} to {_target(answer)}, which is not followed; {self._check_url()}")
        raise ControlPlaneRejected(str(answer))

    def _send(
        self, method: str, path: str, query: Mapping[str, str | int] | None = None, body: JsonObject | None = None
    ) -> Answer:
        """Send one request; return the complete answer. Raises ControlPlaneUnavailable if there is none."""
        url = f"{self._url}{path}"
        content = orjson.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else None
        try:
            with self._http().stream(method, url, params=query, content=content, headers=headers) as response:
                data = self._read(response)
                return Answer(
                    method=method,
                    url=str(response.request.url),
                    status=response.status_code,
                    headers=response.headers,
                    content=data,
                    key=self._headers["X-Api-Key"],
                )
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError) as error:
            what = f"{self._said(error)}{_hint(error)}"
            forbidden = may_forbid(error, self._network_policy, "networkPolicy.extraPorts")
            raise ControlPlaneUnavailable(
                f"{method} {url}: no answer: {what}{forbidden}; {self._check_url()}"
            ) from None

    def _read(self, response: httpx.Response) -> bytes:
        end = time.monotonic() + self._deadline
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > LARGEST_ANSWER:
                raise httpx.ReadError(f"the answer is larger than {LARGEST_ANSWER} bytes")
            if time.monotonic() > end:
                raise httpx.ReadTimeout(f"the answer is not complete after {self._deadline:g} s ({size} bytes)")
        return b"".join(parts)

    def _http(self) -> httpx.Client:
        """Return the client of this process; a forked child makes its own."""
        client = self._client
        if client is None or client[0] != os.getpid():
            opened = httpx.Client(
                headers=self._headers, timeout=self._timeout, verify=self._verify, follow_redirects=False, http2=False
            )
            client = self._client = (os.getpid(), opened)
        return client[1]

    def _said(self, error: Exception) -> str:
        if isinstance(error, httpx.LocalProtocolError):  # its message repeats the header with the key
            return f"{variable('langsmith_api_key')} has characters that an HTTP header cannot have; set it again"
        return str(error) or type(error).__name__


def retry_after(headers: httpx.Headers, now: datetime | None = None) -> float | None:
    """Return the seconds of Retry-After, at most LONGEST_RETRY_AFTER; None if there is none, or it is not readable.

    A date is compared with the server's Date, or else with `now`.
    """
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.isdigit():
        return min(float(value), LONGEST_RETRY_AFTER)
    until, sent = _date(value), _date(headers.get("Date", ""))
    if until is None:
        return None
    seconds = (until - (sent or now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _target(answer: Answer) -> str:
    try:
        return httpx.URL(answer.headers.get("Location", "")).host or "elsewhere"
    except httpx.InvalidURL:
        return "elsewhere"


def _hint(error: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"; for a private CA, set {variable('control_plane_ca_file')}"
    return ""


def _verification(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"{variable('control_plane_ca_file')}={str(ca_file)!r} is not a PEM file: {error}; set it to a file with "
            "CA certificates"
        ) from error
