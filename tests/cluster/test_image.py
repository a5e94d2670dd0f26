"""The image built from k8s/Dockerfile, inspected from inside a pod of the chart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chart.rendering import RELEASE
from tests.cluster.data_plane import COMPONENTS, DataPlane

START_SECONDS = 1.0
"""Largest CPU time, user and system, that a worker may take to load its program; seconds."""

INSPECT = """
import importlib.util, json, os, resource, shutil, subprocess, sys

def start():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import workers.__main__"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

def writable(folder):
    try:
        open(os.path.join(folder, "x"), "w").close()
    except OSError:
        return False
    return True

print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "installers": [name for name in ("pip", "setuptools", "ensurepip", "wheel") if importlib.util.find_spec(name)],
    "programs": [name for name in ("pip", "pip3", "gcc", "cc", "c++", "g++", "ld", "make") if shutil.which(name)],
    "writable": [folder for folder in ("/", "/opt/agentplane", os.path.dirname(os.__file__)) if writable(folder)],
    "start": min(start() for _ in range(3)),
}))
"""


@pytest.fixture(scope="module")
def inspected(plane: DataPlane) -> dict[str, Any]:
    """What a program in the listener's pod finds: user, installers, programs, writable folders, start time."""
    pod = f"deploy/{RELEASE}-listener"
    output = plane.cluster.kubectl("-n", plane.namespace, "exec", pod, "--", "python", "-c", INSPECT)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def test_its_user_is_not_root_and_has_no_writable_folder(inspected: dict[str, Any]) -> None:
    assert inspected["user"] == [10001, 10001]
    assert inspected["writable"] == []


def test_it_holds_no_installer_and_no_compiler(inspected: dict[str, Any]) -> None:
    assert inspected["installers"] == []
    assert inspected["programs"] == []


def test_a_worker_starts_in_under_a_second_of_cpu(inspected: dict[str, Any]) -> None:
    assert inspected["start"] < START_SECONDS


def test_its_programs_start_without_a_shell(plane: DataPlane) -> None:
    started = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"].removeprefix(f"{RELEASE}-"): container["command"][0]
        for pod in plane.pods()
        for container in pod["spec"]["containers"]
        if container["image"].startswith(plane.values["images"]["agentplaneImage"]["repository"])
    }

    assert set(started) == set(COMPONENTS)
    assert set(started.values()) <= {"python", "agentplane"}
