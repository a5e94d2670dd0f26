"""The image: its base is pinned and can be replaced by a build argument; its processes run without privileges."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "k8s" / "Dockerfile").read_text()
INSTRUCTIONS = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]


def test_the_base_is_one_build_argument_with_a_digest() -> None:
    (default,) = [line.removeprefix("ARG PYTHON_IMAGE=") for line in INSTRUCTIONS if line.startswith("ARG ")]

    assert re.fullmatch(r"docker\.io/library/python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", default)
    bases = [line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM ")]
    assert bases == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}"]


def test_the_base_has_a_python_that_the_project_supports() -> None:
    (major, minor) = re.search(r"python:(\d+)\.(\d+)\.", DOCKERFILE).groups()  # type: ignore[union-attr]
    floor = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]

    assert floor == ">=3.11"
    assert (int(major), int(minor)) >= (3, 11)


def test_processes_run_without_rights_from_a_directory_that_a_read_only_file_system_has() -> None:
    last = DOCKERFILE.rpartition("FROM ")[2].splitlines()

    assert "USER 10001:10001" in last
    assert "WORKDIR /tmp" in last


def test_only_what_the_lock_names_is_installed_with_its_hash() -> None:
    installs = re.findall(r"pip --python \S+ install (.*?)\n(?!\s)", DOCKERFILE.replace("\\\n", " "), re.DOTALL)

    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert all("--no-deps" in line for line in installs)
