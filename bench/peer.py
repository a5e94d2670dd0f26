"""A peer to compare with: a minimal operator for the same objects, written with Kopf as its documentation shows.

It expands an LGP into the same objects (with the same function) and applies each by server-side apply with an
asynchronous client. It has no control plane, no event log, no locks, no reads, no status and no drift detection. It
runs as a process of its own, for LGPs in a namespace of its own.

    python -m kopf run --namespace NS bench/peer.py        with AGENTPLANE_… settings and KUBECONFIG in the environment
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import orjson

from bench import raw
from bench.world import cpu_seconds
from engine import bootstrap
from engine.names import LGP_API_VERSION, LGP_KIND
from engine.operator.lgp import read_lgp
from engine.operator.plan import build_plan
from engine.ports import Manifest
from engine.settings import Settings
from sandbox.kubeconfig import read_kubeconfig
from sandbox.processes import ServerProcess
from sandbox.stack import Stack, kubernetes_client

NAMESPACE = "kopf"
PATIENCE = 600.0
GROUP, _, VERSION = LGP_API_VERSION.partition("/")

# --- the operator


@kopf.on.startup()
async def connect(memo: kopf.Memo, settings: kopf.OperatorSettings, **_: Any) -> None:
    """Open one client for all handlers, and stop Kopf from posting an Event for each object."""
    settings.posting.enabled = False
    settings.batching.worker_limit = 32
    url, headers, verify = read_kubeconfig(Path(os.environ["KUBECONFIG"]))
    tls = verify if isinstance(verify, ssl.SSLContext) else False
    connector = aiohttp.TCPConnector(limit=raw.CONNECTIONS, ssl=tls)
    memo.session = aiohttp.ClientSession(base_url=url, headers=headers, connector=connector)
    memo.config = bootstrap.operator_config(Settings.load())


@kopf.on.cleanup()
async def disconnect(memo: kopf.Memo, **_: Any) -> None:
    await memo.session.close()


@kopf.on.create(GROUP, VERSION, "lgps")
@kopf.on.update(GROUP, VERSION, "lgps", field="spec")
async def expand(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Apply all objects of the LGP's plan."""
    plan = build_plan(read_lgp(dict(body)), memo.config)
    for planned in plan.objects.values():
        manifest = planned.credential.manifest if planned.credential is not None else planned.manifest
        if manifest is not None:
            await raw.send(memo.session, manifest)


# --- the measurement


def converge(stack: Stack, manifests: list[Manifest]) -> tuple[float, float]:
    """Return the seconds from the first LGP until the operator has applied all objects, and its CPU seconds.

    The CPU seconds are those of the operator's process, without those of its start.
    """
    lgps_ = [manifest for manifest in manifests if manifest["kind"] == LGP_KIND]
    # Secrets with values are not counted: the listener applies them, not the operator.
    expected = sum(manifest["kind"] in ("Deployment", "StatefulSet", "Service") for manifest in manifests)
    log = stack.directory / "logs" / "kopf.log"
    command = [sys.executable, "-m", "kopf", "run", "--namespace", NAMESPACE, __file__]
    environment = {**stack.environment(), "KUBECONFIG": str(stack.kubeconfig)}
    with kubernetes_client(stack.kubeconfig) as http:
        http.post("/api/v1/namespaces", json=_namespace()).raise_for_status()
        operator = ServerProcess("kopf", command, log=log, ready=lambda: _started(log), env=environment)
        try:
            operator.start()
            start, cpu = time.perf_counter(), cpu_seconds(operator.pid) or 0.0
            raw.apply_all(stack.kubeconfig, NAMESPACE, lgps_)
            deadline = start + PATIENCE
            while _applied(http) < expected:
                if time.perf_counter() > deadline:
                    raise TimeoutError(f"Kopf did not apply {expected} objects within {PATIENCE:g} s; log {log}")
                time.sleep(0.25)
            return time.perf_counter() - start, (cpu_seconds(operator.pid) or 0.0) - cpu
        finally:
            operator.stop()


def _namespace() -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _started(log: Path) -> bool:
    return log.exists() and b"Initial authentication has finished" in log.read_bytes()


def _applied(http: Any) -> int:
    """Return how many Deployments, StatefulSets and Services the operator's namespace has."""
    paths = ("apis/apps/v1/{}deployments", "apis/apps/v1/{}statefulsets", "api/v1/{}services")
    found = 0
    for path in paths:
        listed = http.get("/" + path.format(f"namespaces/{NAMESPACE}/"), params={"limit": 1})
        answer = orjson.loads(listed.raise_for_status().content)
        found += len(answer["items"]) + answer["metadata"].get("remainingItemCount", 0)
    return found
