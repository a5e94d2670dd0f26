"""A small asynchronous client of the Kubernetes API, configured by a kubeconfig file.

The `kubernetes` client is synchronous: one thread per watch and one per write. This process serves an ingress
in the same event loop, so it speaks the few verbs it needs over httpx instead.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

MERGE_PATCH = "application/merge-patch+json"
# The server ends a watch after this long; the client gives up on silence somewhat later.
WATCH_SECONDS = 240

# API group version → path prefix.
CORE = "/api/v1"


class ApiError(Exception):
    """The API server refused; `code` is the HTTP status, `reason` the Status reason."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


class Api:
    """Verbs against one API server; paths are the server's own, such as `/api/v1/pods`."""

    def __init__(self, kubeconfig: Path) -> None:
        """Read the current context. ValueError when the file does not describe a cluster."""
        server, headers, context = _read(kubeconfig)
        self.server = server
        self._http = httpx.AsyncClient(
            base_url=server,
            headers={"User-Agent": "agentplane-sandbox-kubelet", **headers},
            verify=context,
            timeout=httpx.Timeout(10, read=30),
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=20),
            # A proxy of the machine has no business between a node and its API server.
            trust_env=False,
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        """GET. Raises ApiError, httpx.TransportError."""
        return await self._send("GET", path, params=params)

    async def find(self, path: str) -> dict[str, Any] | None:
        """GET, None when there is none. Raises ApiError, httpx.TransportError."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST. Raises ApiError, httpx.TransportError."""
        return await self._send("POST", path, body=body)

    async def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """JSON merge patch. Raises ApiError, httpx.TransportError."""
        return await self._send("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def delete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """DELETE with DeleteOptions. Raises ApiError, httpx.TransportError."""
        return await self._send("DELETE", path, body=body)

    async def watch(self, path: str, resource_version: str) -> AsyncIterator[dict[str, Any]]:
        """Watch events after `resource_version` until the server ends the stream.

        Raises ApiError (410 also when it arrives as an event) and httpx.TransportError.
        """
        params: dict[str, str | int] = {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
        }
        timeout = httpx.Timeout(10, read=WATCH_SECONDS + 30)
        async with self._http.stream("GET", path, params=params, timeout=timeout) as response:
            if response.status_code != 200:
                await response.aread()
                raise _error(response)
            async for line in response.aiter_lines():
                if not line.strip():
                    continue
                event: dict[str, Any] = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(status.get("code") or 500, status.get("reason") or "", status.get("message") or "")
                yield event

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if content is not None else {}
        response = await self._http.request(method, path, params=params, content=content, headers=headers)
        if response.is_error:
            raise _error(response)
        answer: dict[str, Any] = response.json()
        return answer


def _error(response: httpx.Response) -> ApiError:
    try:
        status = response.json()
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    return ApiError(response.status_code, status.get("reason") or "", status.get("message") or response.text[:200])


def _read(kubeconfig: Path) -> tuple[str, dict[str, str], ssl.SSLContext | bool]:
    config = yaml.safe_load(kubeconfig.read_text())
    try:
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        server: str = cluster["server"]
        user = _named(config, "users", context["user"])["user"] if context.get("user") else {}
    except (KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"kubeconfig {kubeconfig} has no usable current context ({error!r})") from error
    headers: dict[str, str] = {}
    if token := _token(user, kubeconfig.parent):
        headers["Authorization"] = f"Bearer {token}"
    elif user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    elif user.get("exec") or user.get("auth-provider"):
        raise ValueError(f"kubeconfig {kubeconfig}: credential plugins are not supported, use a token")
    return server, headers, _tls(cluster, user, kubeconfig.parent) if server.startswith("https") else False


def _named(config: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in config[section] if entry["name"] == name)
    return found


def _token(user: dict[str, Any], folder: Path) -> str | None:
    if path := user.get("tokenFile"):
        return str((folder / path).read_text()).strip()
    token: str | None = user.get("token")
    return token


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if inline := cluster.get("certificate-authority-data"):
        context = ssl.create_default_context(cadata=base64.b64decode(inline).decode())
    elif path := cluster.get("certificate-authority"):
        context = ssl.create_default_context(cafile=str(folder / path))
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as directory:
            # ssl loads client certificates from files only; mkdtemp makes the folder private to this user.
            pair = Path(directory, "pair.pem")
            pair.touch(mode=0o600)
            pair.write_bytes(
                base64.b64decode(user["client-certificate-data"])
                + os.linesep.encode()
                + base64.b64decode(user["client-key-data"])
            )
            context.load_cert_chain(pair)
    elif "client-certificate" in user:
        context.load_cert_chain(folder / user["client-certificate"], folder / user["client-key"])
    return context
