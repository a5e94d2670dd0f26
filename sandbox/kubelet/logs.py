"""Container logs over HTTP: for people and the embedded API server, and at a kubelet's path for a real kube-apiserver.

    GET /logs/<namespace>/<pod>[/<container>]             plain HTTP, the address in the pod's annotation; the default
                                                          container is the first (`container` may be in the query)
    GET /containerLogs/<namespace>/<pod>/<container>      the request that a kube-apiserver sends to a kubelet

Both take the query parameters `tailLines`, `previous`, `follow`, `limitBytes` of the Kubernetes API. The endpoints are
on loopback and need no authentication: the log files are readable for the users of this machine anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sandbox.kubelet.kubelet import Kubelet
from sandbox.kubelet.pod import PodWorker
from sandbox.kubelet.runtime import Runtime

FOLLOW_SECONDS = 0.2
BLOCK = 64 * 1024


def log_app(kubelet: Kubelet, runtime: Runtime) -> Starlette:
    """Return the ASGI application of the log endpoints."""

    async def logs(request: Request) -> Response:
        namespace, name = request.path_params["namespace"], request.path_params["pod"]
        worker = kubelet.worker(namespace, name)
        if worker is None:
            return PlainTextResponse(f"pod {namespace}/{name} does not run on this node\n", status_code=404)
        named = request.path_params.get("container") or request.query_params.get("container")
        container = named or _default_container(worker)
        previous = _flag(request, "previous")
        if container not in worker.container_names():
            known = ", ".join(worker.container_names())
            text = f'container "{container}" is not in pod {namespace}/{name}; its containers: {known}\n'
            return PlainTextResponse(text, status_code=404)
        attempt = worker.log_attempt(container, previous=previous)
        if attempt is None:
            text = f'previous terminated container "{container}" in pod "{name}" not found\n'
            return PlainTextResponse(text, status_code=400)
        path = runtime.log_path(worker.pod, container, attempt)
        # Until the next run of a container starts, its log is that of the run before.
        if not path.exists() and attempt:
            path = runtime.log_path(worker.pod, container, attempt - 1)
        following = _flag(request, "follow") and not previous
        goes_on: Callable[[], bool] = (lambda: worker.is_running(container)) if following else (lambda: False)
        content = _content(path, _number(request, "tailLines"), _number(request, "limitBytes"), goes_on)
        return StreamingResponse(content, media_type="text/plain; charset=utf-8")

    where = "/{namespace}/{pod}"
    return Starlette(
        routes=[
            Route("/logs" + where, logs),
            Route("/logs" + where + "/{container}", logs),
            Route("/containerLogs" + where + "/{container}", logs),
            Route("/healthz", lambda request: PlainTextResponse("ok")),
        ]
    )


def _default_container(worker: PodWorker) -> str:
    name: str = worker.pod["spec"]["containers"][0]["name"]
    return name


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("true", "1")


def _number(request: Request, name: str) -> int | None:
    value = request.query_params.get(name, "")
    return int(value) if value.isdigit() else None


async def _content(
    path: Path, tail: int | None, limit: int | None, goes_on: Callable[[], bool]
) -> AsyncIterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        if tail is not None:
            file.seek(_tail_offset(path.read_bytes(), tail))
        left = limit
        while True:
            alive = goes_on()  # before the read, so that the last lines are not missed
            while block := file.read(BLOCK if left is None else min(BLOCK, left)):
                yield block
                if left is not None:
                    left -= len(block)
            if not alive or left == 0:
                return
            await asyncio.sleep(FOLLOW_SECONDS)


def _tail_offset(content: bytes, lines: int) -> int:
    if lines <= 0:
        return len(content)
    # A trailing newline ends the last line; it does not begin another.
    end = len(content) - 1 if content.endswith(b"\n") else len(content)
    for _ in range(lines):
        end = content.rfind(b"\n", 0, end)
        if end < 0:
            return 0
    return end + 1
