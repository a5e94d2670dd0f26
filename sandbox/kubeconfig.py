"""Reads a kubeconfig: address, credentials and TLS of the API server, for the HTTP clients of the sandbox."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

import yaml


def read_kubeconfig(kubeconfig: Path) -> tuple[str, dict[str, str], ssl.SSLContext | bool]:
    """Return URL, headers and TLS context of the current context. Raises ValueError when the context is unusable."""
    cluster, user = _current(kubeconfig)
    server: str = cluster["server"]
    headers: dict[str, str] = {}
    if token := _token(user, kubeconfig.parent):
        headers["Authorization"] = f"Bearer {token}"
    elif user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    elif user.get("exec") or user.get("auth-provider"):
        raise ValueError(f"kubeconfig {kubeconfig}: credential plugins are not supported; use a token")
    return server, headers, _tls(cluster, user, kubeconfig.parent) if server.startswith("https") else False


def current_cluster(kubeconfig: Path) -> dict[str, Any]:
    """Return the `cluster` entry of the current context. Raises ValueError when there is none."""
    return _current(kubeconfig)[0]


def _current(kubeconfig: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config = yaml.safe_load(kubeconfig.read_text())
    try:
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"] if context.get("user") else {}
        cluster["server"]
    except (KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"kubeconfig {kubeconfig} has no usable current context ({error!r})") from error
    return cluster, user


def _named(config: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in config[section] if entry["name"] == name)
    return found


def _token(user: dict[str, Any], folder: Path) -> str | None:
    if path := user.get("tokenFile"):
        return str((folder / path).read_text()).strip()
    token: str | None = user.get("token")
    return token


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if inline := cluster.get("certificate-authority-data"):
        context = ssl.create_default_context(cadata=base64.b64decode(inline).decode())
    elif path := cluster.get("certificate-authority"):
        context = ssl.create_default_context(cafile=str(folder / path))
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as directory:
            # ssl can load client certificates only from files. Only this user can read the temporary folder.
            pair = Path(directory, "pair.pem")
            pair.touch(mode=0o600)
            pair.write_bytes(
                base64.b64decode(user["client-certificate-data"])
                + os.linesep.encode()
                + base64.b64decode(user["client-key-data"])
            )
            context.load_cert_chain(pair)
    elif "client-certificate" in user:
        context.load_cert_chain(folder / user["client-certificate"], folder / user["client-key"])
    return context
