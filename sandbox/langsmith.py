"""The part of the LangSmith API that Agent Servers call: authentication, traces, usage. Mounted at `/langsmith`.

It stores only how many runs each tracing project received, so that the demo can show that traces arrive. Bodies may
contain keys and prompts; they are neither stored nor logged.

Routes, as observed from Agent Servers of langgraph-api 0.16: `GET auth/public` (with LANGGRAPH_AUTH_TYPE=langsmith, to
check a caller), `GET info` and `POST runs/multipart` or `runs/batch` (traces), `POST v1/metadata/submit` (usage).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_PROJECT = re.compile(rb'"session_name"\s*:\s*"((?:[^"\\]|\\.)*)"')

BATCHES = {
    "use_multipart_endpoint": True,
    "size_limit": 100,
    "size_limit_bytes": 20 * 1024 * 1024,
    "scale_up_nthreads_limit": 4,
    "scale_up_qsize_trigger": 1000,
    "scale_down_nempty_trigger": 4,
}
"""How clients must send runs. Clients require every field; without one, they send no runs."""


class LangSmith:
    """A LangSmith API for the workspaces of `keys` (API key → workspace id)."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = keys
        self._runs: Counter[str] = Counter()

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/auth/public", self._authenticate),
                Route("/info", self._info),
                Route("/runs/multipart", self._ingest, methods=["POST"]),
                Route("/runs/batch", self._ingest, methods=["POST"]),
                Route("/v1/metadata/submit", self._usage, methods=["POST"]),
                Route("/projects", self._projects),
            ]
        )

    def _workspace(self, request: Request) -> str | None:
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        return self._keys.get(key)

    async def _authenticate(self, request: Request) -> Response:
        workspace = self._workspace(request)
        if workspace is None:
            return JSONResponse({"detail": "unknown API key"}, 401)
        return JSONResponse({"tenant_id": workspace, "organization_id": workspace, "user_id": workspace})

    async def _info(self, request: Request) -> Response:
        return JSONResponse({"version": "sandbox", "batch_ingest_config": BATCHES})

    async def _ingest(self, request: Request) -> Response:
        if self._workspace(request) is None:
            return JSONResponse({"detail": "unknown API key"}, 401)
        for name in _PROJECT.findall(await request.body()):
            self._runs[json.loads(b'"' + name + b'"')] += 1
        return JSONResponse({}, 202)

    async def _usage(self, request: Request) -> Response:
        await request.body()
        return JSONResponse({})

    async def _projects(self, request: Request) -> Response:
        """Answer with the number of runs received so far, by tracing project."""
        if self._workspace(request) is None:
            return JSONResponse({"detail": "unknown API key"}, 401)
        return JSONResponse(dict(self._runs))
