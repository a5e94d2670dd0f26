"""A service account with exactly the given permissions in one namespace of the real API server, and its kubeconfig."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import httpx
import yaml

from engine.kubernetes.kinds import PLURALS, group_of
from engine.kubernetes.permissions import Permission

Rule = dict[str, list[str]]


def rules(permissions: Iterable[Permission]) -> list[Rule]:
    """Return the RBAC rules of a Role that allows `permissions`."""
    return [
        {
            "apiGroups": [group_of(permission.api_version)],
            "resources": ["/".join(filter(None, (PLURALS[permission.kind], permission.subresource)))],
            "verbs": permission.verbs.split(),
        }
        for permission in permissions
    ]


def account(kubeconfig: Path, http: httpx.Client, namespace: str, allowed: list[Rule], folder: Path) -> Path:
    """Make a service account whose Role has the `allowed` rules; return a kubeconfig with its token."""
    meta = {"name": "agentplane", "namespace": namespace}
    subject = {"kind": "ServiceAccount", **meta}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "agentplane"}
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    http.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", json={"metadata": meta}).raise_for_status()
    http.post(f"{rbac}/roles", json={"metadata": meta, "rules": allowed}).raise_for_status()
    http.post(
        f"{rbac}/rolebindings", json={"metadata": meta, "roleRef": role, "subjects": [subject]}
    ).raise_for_status()
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/agentplane/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = http.post(path, json=request).raise_for_status().json()["status"]["token"]
    return with_token(kubeconfig, token, folder)


def with_token(kubeconfig: Path, token: str, folder: Path) -> Path:
    """Return a copy of `kubeconfig` whose user authenticates with `token`."""
    config = yaml.safe_load(kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    copy = folder / "account.kubeconfig"
    copy.write_text(yaml.safe_dump(config))
    return copy


def elsewhere(kubeconfig: Path, server: str, folder: Path) -> Path:
    """Return a copy of `kubeconfig` that leads to `server`."""
    config = yaml.safe_load(kubeconfig.read_text())
    for cluster in config["clusters"]:
        cluster["cluster"]["server"] = server
    copy = folder / "elsewhere.kubeconfig"
    copy.write_text(yaml.safe_dump(config))
    return copy


__all__ = ["account", "elsewhere", "rules", "with_token"]
