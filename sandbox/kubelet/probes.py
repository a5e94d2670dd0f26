"""Startup, readiness and liveness probes of one running container.

Until its first success, a probe runs at least every `cap` seconds: a rollout then need not wait for the 15 seconds of
the upstream template. After that, it runs with the period of the Pod spec, which costs little CPU. A container becomes
unhealthy only after as many failures, over as much time, as the Pod spec allows.
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

# Runs a probe once; returns None for success, else what went wrong.
Check = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When a probe runs and when its result counts; times in seconds."""

    delay: float
    # Between two runs before the first success.
    eager: float
    # Between two runs after the first success.
    period: float
    timeout: float
    # Successes in a row that make the container healthy.
    successes: int
    # Failures in a row, and the least time from the first to the last of them, that make the container unhealthy.
    failures: int
    patience: float


def pace(probe: dict[str, Any], cap: float) -> Pace:
    """Return the timing of a probe, with Kubernetes' defaults; `cap` is the longest period before the first success."""
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
    """The container that probes check."""

    container: dict[str, Any]
    # The complete environment, for probe commands.
    env: dict[str, str]
    # Port inside the container → local port.
    ports: dict[int, int]
    http: httpx.AsyncClient
    # Working directory of probe commands.
    cwd: Path | None = None

    def local_port(self, port: int | str) -> int:
        """Return the local port for a container port, given by number or name."""
        if isinstance(port, str) and not port.isdigit():
            named = (one["containerPort"] for one in self.container.get("ports") or () if one.get("name") == port)
            port = next(named, 0)
        return self.ports.get(int(port), int(port))


def check_of(probe: dict[str, Any], target: Target) -> Check:
    """Return a function that runs `probe` once, without its timeout."""
    kinds: dict[str, Callable[[dict[str, Any], Target], Check]] = {
        "httpGet": _http_get,
        "tcpSocket": _tcp_socket,
        "exec": _exec,
    }
    for kind, make in kinds.items():
        if probe.get(kind) is not None:
            return make(probe[kind], target)
    return _unsupported


async def watch(probe: dict[str, Any], target: Target, cap: float, on_change: Callable[[bool, str], None]) -> None:
    """Run `probe` until cancelled; call `on_change(healthy, message)` whenever the container's health changes."""
    timing, check, clock = pace(probe, cap), check_of(probe, target), asyncio.get_running_loop().time
    healthy: bool | None = None
    streak, since, last = 0, clock(), True
    await asyncio.sleep(timing.delay)
    while True:
        problem = await _once(check, timing.timeout)
        good = problem is None
        if good != last:
            streak, since, last = 0, clock(), good
        streak += 1
        counts = streak >= timing.successes if good else _is_unhealthy(timing, streak, clock() - since)
        if counts and healthy is not good:
            healthy = good
            on_change(good, problem or "")
        await asyncio.sleep(timing.period if healthy else timing.eager)


def _is_unhealthy(timing: Pace, failures: int, elapsed: float) -> bool:
    return failures >= timing.failures and elapsed >= timing.patience


async def _once(check: Check, timeout: float) -> str | None:
    try:
        return await asyncio.wait_for(check(), timeout)
    except TimeoutError:
        return f"no answer within {timeout:g} s"


def _http_get(action: dict[str, Any], target: Target) -> Check:
    port = target.local_port(action["port"])
    path = action.get("path") or "/"
    scheme = (action.get("scheme") or "HTTP").lower()
    headers = {one["name"]: one["value"] for one in action.get("httpHeaders") or ()}
    url = f"{scheme}://{LOOPBACK}:{port}/{path.removeprefix('/')}"

    async def check() -> str | None:
        try:
            answer = await target.http.get(url, headers={"User-Agent": "kube-probe/sandbox", **headers})
        except httpx.HTTPError as error:
            return f"Get {path!r}: {error or type(error).__name__}"
        if 200 <= answer.status_code < 400:
            return None
        return f"HTTP probe failed with statuscode: {answer.status_code}"

    return check


def _tcp_socket(action: dict[str, Any], target: Target) -> Check:
    port = target.local_port(action["port"])

    async def check() -> str | None:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError as error:
            return f"dial tcp: {error}"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return None

    return check


def _exec(action: dict[str, Any], target: Target) -> Check:
    command = [expand(part, target.env) for part in action.get("command") or ()] or [""]
    executable = shutil.which(command[0], path=target.env.get("PATH")) or command[0]

    async def check() -> str | None:
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

    return check


async def _unsupported() -> str | None:
    return "probe kind not supported by the sandbox (httpGet, tcpSocket, exec are)"
