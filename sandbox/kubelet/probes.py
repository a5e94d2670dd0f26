"""Startup, readiness and liveness probes of one running container.

Until a probe succeeds it asks at least every `cap` seconds, so that a rollout need not wait for the upstream template's
15 seconds; from then on it asks as often as the Pod spec says, which costs next to nothing. How long a probe must fail
to be believed is always what the spec grants: as many failures, and as much time.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sandbox.kubelet.environment import expand
from sandbox.ports import LOOPBACK

# Asks once; None means success, a text says what went wrong.
Ask = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When to ask and when to believe the answer; times in seconds."""

    delay: float
    # Between two questions: until the first success, and from then on.
    eager: float
    period: float
    timeout: float
    # Successes in a row that make healthy.
    successes: int
    # Failures in a row, and the time between the first and the last of them, that make unhealthy.
    failures: int
    patience: float


def pace(probe: dict[str, Any], cap: float) -> Pace:
    """The probe's timing, with Kubernetes' defaults."""
    period = float(probe.get("periodSeconds") or 10)
    failures = int(probe.get("failureThreshold") or 3)
    return Pace(
        delay=float(probe.get("initialDelaySeconds") or 0),
        eager=min(period, cap),
        period=period,
        timeout=float(probe.get("timeoutSeconds") or 1),
        successes=int(probe.get("successThreshold") or 1),
        failures=failures,
        patience=(failures - 1) * period,
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a container's probes go."""

    container: dict[str, Any]
    # The whole environment, for commands; and where they run.
    env: dict[str, str]
    # Port inside the container → local port.
    ports: dict[int, int]
    http: httpx.AsyncClient
    cwd: Path | None = None

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
    """Ask for ever; call `tell(healthy, message)` whenever the verdict changes."""
    timing, ask, clock = pace(probe, cap), asker(probe, target), asyncio.get_running_loop().time
    verdict: bool | None = None
    streak, since, last = 0, clock(), True
    await asyncio.sleep(timing.delay)
    while True:
        problem = await _once(ask, timing.timeout)
        good = problem is None
        if good != last:
            streak, since, last = 0, clock(), good
        streak += 1
        believed = streak >= timing.successes if good else _is_unhealthy(timing, streak, clock() - since)
        if believed and verdict is not good:
            verdict = good
            tell(good, problem or "")
        await asyncio.sleep(timing.period if verdict else timing.eager)


def _is_unhealthy(timing: Pace, failures: int, elapsed: float) -> bool:
    return failures >= timing.failures and elapsed >= timing.patience


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
    command = [expand(part, target.env) for part in action.get("command") or ()] or [""]
    executable = shutil.which(command[0], path=target.env.get("PATH")) or command[0]

    async def ask() -> str | None:
        null = asyncio.subprocess.DEVNULL
        try:
            child = await asyncio.create_subprocess_exec(
                executable, *command[1:], stdin=null, stdout=null, stderr=null, env=target.env, cwd=target.cwd
            )
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
