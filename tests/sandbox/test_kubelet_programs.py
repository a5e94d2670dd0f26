"""Programs that are not Agent Servers: their images, ports and volumes. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.kubelet import images
from sandbox.kubelet.execution import of_program
from sandbox.kubelet.images import Program
from sandbox.kubelet.runtime import Execution
from sandbox.kubelet.volumes import local_path

HOME = Path("/tmp/node/pods/1/main")
PORT = 23456
MOUNTS = {"/tmp": Path("/node/volumes/1/tmp"), "/tmp/cache": Path("/node/volumes/1/cache")}


def execution(program: Program, env: dict[str, str] | None = None, **container: Any) -> Execution:
    return of_program(program, {"name": "main", **container}, env or {}, home=HOME, port=PORT, mounts=MOUNTS)


def test_an_image_says_what_its_program_needs(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "image.json").write_text(json.dumps({"env": {"A": "1"}, "command": ["serve", "{port}"]}))

    image = images.resolve("sandbox.local/tool:1", tmp_path)

    assert image.folder == tmp_path / "tool"
    assert image.program == Program(env={"A": "1"}, command=("serve", "{port}"))


def test_the_pods_environment_wins_over_the_images() -> None:
    run = execution(Program(env={"A": "image", "B": "{home}/lib"}), {"A": "pod"})
    assert (run.env["A"], run.env["B"]) == ("pod", f"{HOME}/lib")


def test_arguments_follow_the_images_command_and_a_command_replaces_it() -> None:
    program = Program(command=("entrypoint", "{port}"))
    assert execution(program, args=["--now"]).command == ["entrypoint", str(PORT), "--now"]
    assert execution(program, {"WHO": "me"}, command=["other", "$(WHO)"]).command == ["other", "me"]


def test_a_program_that_takes_a_port_serves_its_container_port() -> None:
    assert execution(Program(command=("serve", "{port}"))).ports == {8000: PORT}


def test_a_variable_that_holds_a_port_of_the_container_holds_the_local_one() -> None:
    run = execution(Program(), {"METRICS_PORT": "8081", "OTHER": "80811"}, ports=[{"containerPort": 8081}])
    assert run.ports == {8081: PORT}
    assert (run.env["METRICS_PORT"], run.env["OTHER"]) == (str(PORT), "80811")


def test_any_other_program_listens_where_it_wants_to() -> None:
    assert execution(Program(), args=["--port", "6379"], ports=[{"containerPort": 6379}]).ports == {}


@pytest.mark.parametrize(
    ("word", "leads_to"),
    [
        ("/tmp", "/node/volumes/1/tmp"),
        ("/tmp/a/b", "/node/volumes/1/tmp/a/b"),
        ("/tmp/cache/a", "/node/volumes/1/cache/a"),
        ("/tmpfile", "/tmpfile"),
        ("see /tmp", "see /tmp"),
    ],
)
def test_words_that_begin_with_a_mount_path_become_paths_of_the_volume(word: str, leads_to: str) -> None:
    assert local_path(word, MOUNTS) == leads_to


def test_environment_command_and_probes_have_paths_of_volumes_but_not_the_containers_home() -> None:
    probe = {"exec": {"command": ["check", "/tmp/alive"]}}
    run = execution(
        Program(env={"PYTHONPATH": "{home}", "TMPDIR": "/tmp"}), command=["run", "/tmp/x"], livenessProbe=probe
    )
    assert run.command == ["run", "/node/volumes/1/tmp/x"]
    assert run.env["TMPDIR"] == "/node/volumes/1/tmp"
    assert run.env["PYTHONPATH"] == str(HOME)
    assert run.container["livenessProbe"]["exec"]["command"] == ["check", "/node/volumes/1/tmp/alive"]
