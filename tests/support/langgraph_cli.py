"""The command `langgraph deploy`, run against a control plane of the sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from sandbox.control_plane.server import ControlPlane

IMAGE = "sandbox.local/hello@sha256:" + "0" * 64

URL = "http://localhost:1/lgp/hello"

LANGGRAPH = Path(sys.executable).with_name("langgraph")


def langgraph(plane: ControlPlane, folder: Path, *arguments: str, code: int = 0) -> str:
    """Run `langgraph deploy ...` without the developer's environment; return its output.

    Fails unless the exit code is `code`.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
    done = subprocess.run(
        [str(LANGGRAPH), "deploy", *arguments, "--host-url", plane.url, "--api-key", "key"],
        cwd=folder,
        env={**kept, "LANGGRAPH_CLI_NO_ANALYTICS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def resources(plane: ControlPlane, path: str = "/v2/deployments", **query: Any) -> list[dict[str, Any]]:
    answer = httpx.get(plane.url + path, headers=plane.headers(), params=query).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["resources"]
    return found


def deployment(plane: ControlPlane, name: str) -> dict[str, Any]:
    (found,) = resources(plane, name=name)
    return found


def deploy(plane: ControlPlane, folder: Path, *more: str, image: str = IMAGE, code: int = 0) -> list[dict[str, Any]]:
    """Run `langgraph deploy` of `hello`; return its events."""
    arguments = ("--name", "hello", "--image-uri", image, "--no-input", "--json")
    return [json.loads(line) for line in langgraph(plane, folder, *arguments, *more, code=code).splitlines()]


def result(events: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [event for event in events if event["event"] == "result"]
    return found
