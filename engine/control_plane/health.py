"""Health checks over HTTP: one `GET /ok` of an Agent Server, through its public hostname.

Healthy is 200 with a JSON object whose `ok` is true: the answer of an Agent Server. Any other 200 comes from a program
in between: an ingress without this path, a login page, a parked domain.

Every check opens a new connection. A persistent connection could lead to a pod of the previous revision. Redirects are
followed only within the host. With an `address`, the check connects there, but the request has the hostname: this is
for clusters whose ingress is not reachable by its public name from inside.
"""

from __future__ import annotations

import ssl
import time
from functools import cached_property
from pathlib import Path

import httpx
import orjson

from engine.control_plane.network_policy import may_forbid
from engine.ports import Health
from engine.settings import Settings, variable

MOST_REDIRECTS = 3
LONGEST_BODY = 4096
"""Bytes that are read of an answer."""
LONGEST_DETAIL = 200
"""Characters of the answer or the error."""


class HttpHealth:
    """`ports.HealthProbe` over HTTP. Threads can share it."""

    def __init__(
        self,
        *,
        timeout_seconds: float = 10.0,
        verify_tls: bool = True,
        ca_file: Path | None = None,
        address: str = "",
        secrets: tuple[str, ...] = (),
        network_policy: str = "",
    ) -> None:
        """`timeout_seconds` bounds a whole check. `secrets` never appear in a detail.

        `network_policy` is the name of the NetworkPolicy that limits the connections of this process, if there is one.
        """
        self._seconds = timeout_seconds
        self._verify_tls = verify_tls
        self._ca_file = ca_file
        self._address = address
        self._secrets = secrets
        self._network_policy = network_policy

    @classmethod
    def from_settings(cls, settings: Settings) -> HttpHealth:
        return cls(
            timeout_seconds=settings.health_check_timeout_seconds,
            verify_tls=settings.health_check_verify_tls,
            ca_file=settings.health_check_ca_file,
            address=settings.health_check_address,
            secrets=settings.secrets(),
            network_policy=settings.network_policy,
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made once: to read the CA certificates costs more than a check."""
        if self._ca_file is not None:
            context = ssl.create_default_context(cafile=str(self._ca_file))
        else:
            context = httpx.create_ssl_context()
        if not self._verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def check(self, url: str) -> Health:
        try:
            tls = self._tls
            deadline = time.monotonic() + self._seconds
            target = httpx.URL(url)
            with httpx.Client(verify=tls, follow_redirects=False) as client:
                for _ in range(MOST_REDIRECTS + 1):
                    status, location, body = self._get(client, target, deadline)
                    if not location:
                        return self._judge(status, body)
                    following = target.join(location)
                    if following.host != target.host:
                        return self._health(False, f"{status}, a redirect to {following.host}, which is not followed")
                    target = following
            return self._health(False, f"more than {MOST_REDIRECTS} redirects")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            forbidden = may_forbid(error, self._network_policy, "networkPolicy.gatewayTo and gatewayPorts")
            return self._health(False, f"no answer: {type(error).__name__}: {error}{_hint(error)}", forbidden)

    def _get(self, client: httpx.Client, target: httpx.URL, deadline: float) -> tuple[int, str, bytes]:
        """Return the status, the target of a redirect (or empty), and the start of the body."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout(f"no answer within {self._seconds:g} s")
        request = client.build_request("GET", target, headers={"Accept": "application/json"}, timeout=left)
        if self._address:
            host, _, port = self._address.partition(":")
            request.url = target.copy_with(host=host, port=int(port) if port else target.port)
            request.extensions["sni_hostname"] = target.host
        response = client.send(request, stream=True)
        try:
            body = b""
            for part in response.iter_bytes():
                body += part
                if len(body) >= LONGEST_BODY:
                    break
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the answer is not complete after {self._seconds:g} s")
            location = response.headers.get("Location", "") if response.is_redirect else ""
            return response.status_code, location, body[:LONGEST_BODY]
        finally:
            response.close()

    def _judge(self, status: int, body: bytes) -> Health:
        text = body.decode(errors="replace")
        if status != 200:
            return self._health(False, f"{status} {text}")
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            return self._health(False, f'200, but not the {{"ok": true}} of an Agent Server: {text}')
        return self._health(True, f"200 {text}")

    def _health(self, ok: bool, detail: str, hint: str = "") -> Health:
        """Return a result with a short detail; `hint` follows the detail and is never shortened."""
        for secret in self._secrets:
            detail = detail.replace(secret, "***")
        line = " ".join("".join(char if char.isprintable() else " " for char in detail).split())
        return Health(ok=ok, detail=line[:LONGEST_DETAIL] + hint)


def _hint(error: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"; for a private CA, set {variable('health_check_ca_file')}"
    return ""
