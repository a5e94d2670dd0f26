"""The raw limit: a bare asynchronous client applies objects as fast as the API server accepts them.

The client has no reads, no locks, no event log and no failure handling: a refusal ends the measurement. The rate of the
whole system is compared with this rate, in the same run and on the same API server.
"""

from __future__ import annotations

import asyncio
import copy
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from engine.kubernetes.kinds import Paths
from engine.names import LGP_KIND
from sandbox.kubeconfig import read_kubeconfig

CONNECTIONS = 32
MANAGER = "bench-raw"

Manifest = dict[str, Any]


def apply_all(kubeconfig: Path, namespace: str, manifests: Iterable[Manifest]) -> float:
    """Apply manifests to a new namespace by server-side apply; return the seconds that this took.

    LGPs are applied first: the other objects have an LGP as their owner and need its new uid. Raises RuntimeError with
    the API server's answer when it refuses an object.
    """
    return asyncio.run(_apply_all(kubeconfig, namespace, list(manifests)))


async def _apply_all(kubeconfig: Path, namespace: str, manifests: list[Manifest]) -> float:
    url, headers, verify = read_kubeconfig(kubeconfig)
    tls = verify if isinstance(verify, ssl.SSLContext) else False
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=tls)
    async with aiohttp.ClientSession(base_url=url, headers=headers, connector=connector) as session:
        await send(session, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        moved = [_moved(manifest, namespace) for manifest in manifests]
        owners = [manifest for manifest in moved if manifest["kind"] == LGP_KIND]
        rest = [manifest for manifest in moved if manifest["kind"] != LGP_KIND]
        start = time.perf_counter()
        made = await _send_all(session, owners)
        uids = {answer["metadata"]["name"]: answer["metadata"]["uid"] for answer in made}
        for manifest in rest:
            for owner in manifest["metadata"].get("ownerReferences", ()):
                owner["uid"] = uids[owner["name"]]
        await _send_all(session, rest)
        return time.perf_counter() - start


async def _send_all(session: aiohttp.ClientSession, manifests: list[Manifest]) -> list[Manifest]:
    """Apply manifests with all connections at the same time; return the answers."""
    waiting = iter(manifests)
    answers: list[Manifest] = []

    async def work() -> None:
        for manifest in waiting:
            answers.append(await send(session, manifest))

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return answers


async def send(session: aiohttp.ClientSession, manifest: Manifest) -> Manifest:
    """Apply one object and return the stored object. Raises RuntimeError with the API server's answer."""
    metadata = manifest["metadata"]
    path = PATHS.of(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])
    async with session.patch(
        f"{path}?fieldManager={MANAGER}&force=true",
        data=orjson.dumps(manifest),
        headers={"Content-Type": "application/apply-patch+yaml"},
    ) as response:
        body = await response.read()
        if response.status not in (200, 201):
            raise RuntimeError(f"{manifest['kind']} {metadata['name']}: {response.status} {body[:500]!r}")
        answer: Manifest = orjson.loads(body)
        return answer


def _moved(manifest: Manifest, namespace: str) -> Manifest:
    """Return a copy of `manifest` in another namespace."""
    moved = copy.deepcopy(manifest)
    moved["metadata"]["namespace"] = namespace
    return moved


def _unknown(api_version: str) -> dict[str, str]:
    raise RuntimeError(f"the plurals of {api_version} are unknown: this client uses no discovery")


PATHS = Paths(_unknown)
