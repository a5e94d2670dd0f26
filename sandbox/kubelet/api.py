"""A small asynchronous client of the Kubernetes API, configured by a kubeconfig file.

The `kubernetes` client is synchronous: it needs a thread per watch and per write. The node serves the ingress in the
same event loop, so it uses this client, which has only the verbs that the node needs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from sandbox.kubeconfig import read_kubeconfig

MERGE_PATCH = "application/merge-patch+json"
# Seconds after which the server ends a watch; the client's read timeout is somewhat longer.
WATCH_SECONDS = 240

# Path prefix of the core API group.
CORE = "/api/v1"


class ApiError(Exception):
    """The API server refused a request; `code` is the HTTP status, `reason` the reason of the Status object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


class Api:
    """A client of one API server; paths are full API paths, such as `/api/v1/pods`."""

    def __init__(self, kubeconfig: Path) -> None:
        """Read the current context. Raises ValueError when the file does not describe a cluster."""
        server, headers, context = read_kubeconfig(kubeconfig)
        self.server = server
        self._http = httpx.AsyncClient(
            base_url=server,
            headers={"User-Agent": "agentplane-sandbox-kubelet", **headers},
            verify=context,
            timeout=httpx.Timeout(10, read=30),
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=20),
            # Proxy variables of the environment do not apply between a node and its API server.
            trust_env=False,
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Send a GET. Raises ApiError, httpx.TransportError."""
        return await self._send("GET", path, params=params)

    async def find(self, path: str) -> dict[str, Any] | None:
        """Send a GET; return None for 404. Raises ApiError, httpx.TransportError."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a POST. Raises ApiError, httpx.TransportError."""
        return await self._send("POST", path, body=body)

    async def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON merge patch. Raises ApiError, httpx.TransportError."""
        return await self._send("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def delete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a DELETE with DeleteOptions. Raises ApiError, httpx.TransportError."""
        return await self._send("DELETE", path, body=body)

    async def watch(self, path: str, resource_version: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the watch events after `resource_version` until the server ends the stream.

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
