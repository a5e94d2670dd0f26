"""Volumes of a program's pod: folders of this machine, and the replacement of mountPaths by these folders.

Mounting an absolute path for one process needs rights that a sandbox should not need. A volume is therefore a folder.
In the environment, the command, the arguments and probe commands, a word that begins with a mountPath gets the path of
the folder instead. A program with the mountPath in its code does not find the volume.

A pod that names a ServiceAccount gets a token, bound to the pod, at the path that Kubernetes uses. As in Kubernetes,
`automountServiceAccountToken: false` of the pod, or else of the account, prevents this. The token is valid for an hour
and is not renewed. File modes, owners and `readOnly` have no effect.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.kubeconfig import current_cluster
from sandbox.kubelet.api import CORE, ApiError
from sandbox.kubelet.environment import ContainerConfigError, Kind
from sandbox.kubelet.node import Node

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607


async def mount(node: Node, pod: dict[str, Any], container: dict[str, Any]) -> dict[str, Path]:
    """Prepare the volumes that `container` mounts; return their folders by mountPath.

    Raises ContainerConfigError, ApiError, httpx.TransportError.
    """
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
    mounts: dict[str, Path] = {}
    for item in container.get("volumeMounts") or ():
        volume = volumes.get(item["name"])
        if volume is None:
            raise ContainerConfigError(f"volumeMount {item['name']}: the pod has no such volume")
        mounts[item["mountPath"].rstrip("/")] = await _prepare(node, pod, volume) / item.get("subPath", "")
    if SERVICE_ACCOUNT not in mounts and (account := await _account(node, pod)):
        folder = node.runtime.volume(pod, "kube-api-access")
        await _write_token(node, pod, account, folder)
        mounts[SERVICE_ACCOUNT] = folder
    return mounts


def local_path(word: str, mounts: Mapping[str, Path]) -> str:
    """Return `word` with the mountPath at its beginning replaced by the volume's folder; other words unchanged."""
    for path in sorted(mounts, key=len, reverse=True):
        if word == path or word.startswith(f"{path}/"):
            return f"{mounts[path]}{word[len(path) :]}"
    return word


async def _prepare(node: Node, pod: dict[str, Any], volume: dict[str, Any]) -> Path:
    name, namespace = volume["name"], pod["metadata"]["namespace"]
    if claim := volume.get("persistentVolumeClaim"):
        return node.runtime.claim(namespace, claim["claimName"])
    folder = node.runtime.volume(pod, name)
    kinds: tuple[tuple[str, Kind, str], ...] = (
        ("secret", "secrets", "secretName"),
        ("configMap", "configmaps", "name"),
    )
    for field, kind, key in kinds:
        if source := volume.get(field):
            await _write_files(node, kind, namespace, source[key], source, folder)
            return folder
    if "emptyDir" not in volume:
        raise ContainerConfigError(
            f"volume {name}: the sandbox supports only emptyDir, secret, configMap and persistentVolumeClaim"
        )
    return folder


async def _write_files(node: Node, kind: Kind, namespace: str, name: str, source: dict[str, Any], folder: Path) -> None:
    found = await node.lookup(kind, namespace, name)
    if found is None:
        if source.get("optional"):
            return
        raise ContainerConfigError(f'MountVolume.SetUp failed: {kind.removesuffix("s")} "{name}" not found')
    stored: dict[str, str] = found.get("data") or {}
    items = source.get("items") or [{"key": key, "path": key} for key in stored]
    for item in items:
        if item["key"] not in stored:
            raise ContainerConfigError(f"MountVolume.SetUp failed: {kind} {name} has no key {item['key']}")
        text = stored[item["key"]]
        _write(folder / item["path"], base64.b64decode(text) if kind == "secrets" else text.encode())


async def _account(node: Node, pod: dict[str, Any]) -> str | None:
    """Return the name of the ServiceAccount that the pod gets a token of, None for none."""
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    name: str | None = spec.get("serviceAccountName")
    if not name or spec.get("automountServiceAccountToken") is False:
        return None
    found = await node.api.find(f"{CORE}/namespaces/{namespace}/serviceaccounts/{name}")
    if found is None:
        raise ContainerConfigError(f'serviceaccount "{name}" not found')
    automount = spec.get("automountServiceAccountToken")
    return name if automount or found.get("automountServiceAccountToken") is not False else None


async def _write_token(node: Node, pod: dict[str, Any], account: str, folder: Path) -> None:
    meta = pod["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound},
    }
    path = f"{CORE}/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
    try:
        answer = await node.api.create(path, request)
    except ApiError as error:
        raise ContainerConfigError(f"no token of serviceaccount {account}: {error}") from error
    _write(folder / "token", answer["status"]["token"].encode())
    _write(folder / "namespace", meta["namespace"].encode())
    if authority := current_cluster(node.kubeconfig).get("certificate-authority-data"):
        _write(folder / "ca.crt", base64.b64decode(authority))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
