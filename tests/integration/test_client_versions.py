"""The engine works with the oldest kubernetes client that pyproject.toml allows, and with the locked one.

The oldest is installed from the package index into a folder of the test session; without an index the test skips.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.api_servers import ApiServer

ROOT = Path(__file__).parents[2]
SCENARIO = Path(__file__).with_name("client_versions_scenario.py")


def minimum() -> str:
    """Return the lowest version of the kubernetes client that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = (asked for text in project["dependencies"] if (asked := Requirement(text)).name == "kubernetes")
    (specifier,) = found.specifier
    assert specifier.operator == ">="
    return specifier.version


@pytest.fixture(scope="session")
def oldest_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the oldest client and its dependencies; it precedes the installed packages on the path."""
    folder = tmp_path_factory.mktemp("oldest-client")
    asked = f"kubernetes=={minimum()}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    installed = subprocess.run(
        [*command, "--retries=1", "--timeout=10", "--target", str(folder), asked],
        capture_output=True,
        text=True,
        timeout=110,
    )
    if installed.returncode != 0:
        pytest.skip(f"no package index to install {asked} from: {installed.stderr.strip().splitlines()[-1]}")
    return folder


def scenario(server: ApiServer, namespace: str, *path: Path) -> dict[str, object]:
    """Run the scenario with these folders first on the path; return the JSON that the scenario prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    finished = subprocess.run(
        [sys.executable, str(SCENARIO), str(server.kubeconfig), namespace],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, object] = json.loads(finished.stdout)
    return found


def check(seen: dict[str, object]) -> None:
    assert seen["created"] == [True, False]
    assert seen["changed"] == [True, False]
    assert seen["managers"] == ["agentplane-client-versions"]
    assert seen["listed"] == ["ADDED"]
    assert seen["events"] == ["MODIFIED", "2", "DELETED"]
    assert seen["deleted"] is True
    assert seen["left"] is None


def test_the_oldest_client_that_is_allowed(api_server: ApiServer, namespace: str, oldest_client: Path) -> None:
    seen = scenario(api_server, namespace, oldest_client)
    assert Version(str(seen["version"])) == Version(minimum())
    check(seen)


def test_the_client_that_is_locked(api_server: ApiServer, namespace: str) -> None:
    seen = scenario(api_server, namespace)
    assert Version(str(seen["version"])) == Version(version("kubernetes"))
    check(seen)
