"""Startup, readiness and liveness probes of one running container.

A probe asks as often as the Pod spec says, but never less often than `cap` seconds: the upstream template asks
every 15 seconds, which is a long time to watch. How long a probe must fail is not capped: the number of failures is
scaled so that a container gets the same patience as its spec grants.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from sandbox.kubelet.environment import expand
from sandbox.ports import LOOPBACK

# Asks once; None means success, a text says what went wrong.
Ask = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When to ask and when to believe the answer."""

    delay: float
    period: float
    timeout: float
    successes: int
    failures: int


def pace(probe: dict[str, Any], cap: float) -> Pace:
    """The probe's timing with its period capped at `cap` seconds."""
    wanted = float(probe.get("periodSeconds") or 10)
    period = min(wanted, cap)
    return Pace(
        delay=float(probe.get("initialDelaySeconds") or 0),
        period=period,
        timeout=float(probe.get("timeoutSeconds") or 1),
        successes=int(probe.get("successThreshold") or 1),
        failures=math.ceil(int(probe.get("failureThreshold") or 3) * wanted / period),
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a container's probes go."""

    container: dict[str, Any]
    env: dict[str, str]
    # Port inside the container → local port.
    ports: dict[int, int]
    http: httpx.AsyncClient

    def local_port(self, port: int | str) -> int:
        """The local port for a port number or name of the container."""
        if isinstance(port, str) and not port.isdigit():
            named = (one["containerPort"] for one in self.container.get("ports") or () if one.get("name") == port)
            port = next(named, 0)
        return self.ports.get(int(port), int(port))


def asker(probe: dict[str, Any], target: Target) -> Ask:
    """The function that performs `probe` once, without its timeout."""
    kinds: dict[str, Callable[[dict[str, Any], Target], Ask]] = {"httpGet": _http_get, "tcpSocket": _tcp_socket,
                                                                 "exec": _exec}  # fmt: skip
    for kind, make in kinds.items():
        if probe.get(kind) is not None:
            return make(probe[kind], target)
    return _unsupported


async def watch(probe: dict[str, Any], target: Target, cap: float, tell: Callable[[bool, str], None]) -> None:
    """Ask for ever; call `tell(healthy, message)` whenever the thresholds change the verdict."""
    timing, ask = pace(probe, cap), asker(probe, target)
    verdict: bool | None = None
    streak, last = 0, True
    await asyncio.sleep(timing.delay)
    while True:
        problem = await _once(ask, timing.timeout)
        good = problem is None
        streak = streak + 1 if good == last else 1
        last = good
        enough = timing.successes if good else timing.failures
        if streak >= enough and verdict is not good:
            verdict = good
            tell(good, problem or "")
        await asyncio.sleep(timing.period)


async def _once(ask: Ask, timeout: float) -> str | None:
    try:
        return await asyncio.wait_for(ask(), timeout)
    except TimeoutError:
        return f"no answer within {timeout:g} s"


def _http_get(action: dict[str, Any], target: Target) -> Ask:
    port = target.local_port(action["port"])
    path = action.get("path") or "/"
    scheme = (action.get("scheme") or "HTTP").lower()
    headers = {one["name"]: one["value"] for one in action.get("httpHeaders") or ()}
    url = f"{scheme}://{LOOPBACK}:{port}/{path.removeprefix('/')}"

    async def ask() -> str | None:
        try:
            answer = await target.http.get(url, headers={"User-Agent": "kube-probe/sandbox", **headers})
        except httpx.HTTPError as error:
            return f"Get {path!r}: {error or type(error).__name__}"
        if 200 <= answer.status_code < 400:
            return None
        return f"HTTP probe failed with statuscode: {answer.status_code}"

    return ask


def _tcp_socket(action: dict[str, Any], target: Target) -> Ask:
    port = target.local_port(action["port"])

    async def ask() -> str | None:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError as error:
            return f"dial tcp: {error}"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return None

    return ask


def _exec(action: dict[str, Any], target: Target) -> Ask:
    command = [expand(part, target.env) for part in action.get("command") or ()]

    async def ask() -> str | None:
        null = asyncio.subprocess.DEVNULL
        try:
            child = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=null, env=target.env)
        except OSError as error:
            return f"exec {command[:1]}: {error}"
        try:
            code = await child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        return None if code == 0 else f"command ended with code {code}"

    return ask


async def _unsupported() -> str | None:
    return "probe kind not supported by the sandbox (httpGet, tcpSocket, exec are)"
