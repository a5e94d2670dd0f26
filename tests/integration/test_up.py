"""`agentplane up` as people use it: in a terminal, pasting the printed commands, and ending it in every way."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
PROMPTLY = 10.0
"""Seconds within which Ctrl-C ends everything; a loaded machine gets twice as long."""
PATIENCE = 90.0

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds left-over processes by /proc"),
    pytest.mark.timeout(240),
]


class Terminal:
    """`agentplane up` in a terminal of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._output = bytearray()
        environment = {**os.environ, "TMPDIR": str(home), "HOME": str(home), "TERM": "xterm", "COLUMNS": "100"}
        environment = {name: value for name, value in environment.items() if not name.startswith("AGENTPLANE_")}
        self.home = home
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, "-m", "cli.main", "up"], environment)
        self.status: int | None = None
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            try:
                if not select.select([self._terminal], [], [], 0.1)[0]:
                    continue
                part = os.read(self._terminal, 65536)
            except OSError:
                return
            if not part:
                return
            self._output += part

    @property
    def output(self) -> str:
        text = self._output.decode(errors="replace").replace("\r\n", "\n")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def pasted(self, title: str) -> str:
        """Return the command that `up` prints under `title`."""
        until(lambda: f"{title}\n  " in self.output and "Ctrl-C ends" in self.output, f"{title!r} is printed", self)
        return self.output.split(f"{title}\n  ", 1)[1].split("\n", 1)[0]

    @property
    def folder(self) -> Path:
        return Path(self.pasted("follow the events").split()[1].rstrip(";")).parent

    def type(self, characters: bytes) -> None:
        os.write(self._terminal, characters)

    def hang_up(self) -> None:
        """Close the terminal, which sends SIGHUP and prevents writes. No thread may be reading from the terminal."""
        self._closing.set()
        self._reader.join(10)
        os.close(self._terminal)

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def run(self, command: str) -> str:
        """Run the pasted command in a shell with a minimal environment."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=environment, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{self.output[-2000:]}"
        return done.stdout


def until(holds: Callable[[], Any], what: str, terminal: Terminal | None = None, seconds: float = PATIENCE) -> None:
    """Wait as `eventually` does; the failure shows the last output of the terminal."""

    def message() -> str:
        return what if terminal is None else f"{what}; last output:\n{terminal.output[-3000:]}"

    eventually(holds, message, seconds)


def processes_of(home: Path) -> list[str]:
    """Return the command lines of all processes whose environment names `home`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # the process has ended meanwhile
    return [command for command in found if command]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[[], Terminal]]:
    started: list[Terminal] = []

    def start() -> Terminal:
        started.append(Terminal(tmp_path / f"home{len(started)}"))
        return started[-1]

    yield start
    for terminal in started:
        if not terminal.ended():
            os.kill(terminal.pid, signal.SIGKILL)  # the leashes of its processes end them
            until(terminal.ended, "`up` ends", terminal)


def leaves_nothing(terminal: Terminal) -> None:
    until(lambda: not processes_of(terminal.home), f"no process is left: {processes_of(terminal.home)}", terminal, 30)


def test_what_it_prints_can_be_pasted_and_ctrl_c_ends_it(up: Callable[[], Terminal]) -> None:
    terminal = up()

    output = terminal.run(
        terminal.pasted(f"deploy an application (its secrets are in {terminal.folder / 'hello' / '.env'})")
    )
    assert "Deployment successful" in output
    environment = f". {terminal.folder}/env"
    if shutil.which("kubectl"):
        assert re.search(r"hello-[0-9a-f]{32} +True +RolledOut", terminal.run(terminal.pasted("list LGPs and pods")))
    assert re.search(r"hello +agents +READY +[0-9a-f]{8} +DEPLOYED", terminal.run(f"{environment}; agentplane status"))
    assert "0 fail" in terminal.run(terminal.pasted("check the installation"))
    assert "hello" in terminal.run(f"{environment}; langgraph deploy list")
    watching = terminal.pasted("follow the events").replace("--follow", "hello")
    assert "RevisionDeployed" in terminal.run(watching)
    assert httpx.get(f"{terminal.pasted('control plane')}/ok").status_code == 200
    assert_flower_shows_streams(terminal.pasted("Flower"))
    lgp = terminal.run(f"{environment}; agentplane status --json").split('"lgp":"', 1)[1].split('"', 1)[0]
    url = terminal.pasted(
        "API docs of an Agent Server (this page needs no key; runs need the header X-Api-Key)"
    ).replace("<LGP name>", lgp)
    assert httpx.get(url).status_code == 200
    folder = terminal.folder
    assert (folder / "paste.txt").read_text().count("\n  ") == 7
    assert (folder / "env").stat().st_mode & 0o077 == 0

    pressed = time.monotonic()
    terminal.type(b"\x03")
    until(terminal.ended, "Ctrl-C ends it", terminal, 2 * PROMPTLY)

    assert terminal.status == 0, terminal.output[-2000:]
    assert time.monotonic() - pressed < 2 * PROMPTLY
    assert not folder.exists()
    assert "Traceback" not in terminal.output
    leaves_nothing(terminal)


def assert_flower_shows_streams(url: str) -> None:
    """Flower lists each task with its name and its stream."""
    table = {"draw": 1, "start": 0, "length": 100, "search[value]": "", "order[0][column]": 0, "order[0][dir]": "asc"}
    table |= {"columns[0][data]": "name"}
    seen: list[tuple[str, str]] = []

    def listed() -> bool:
        rows = httpx.post(f"{url}/tasks/datatable", data=table).json()["data"]
        seen[:] = [(str(row["name"]), str(row["args"])) for row in rows]
        streams = " ".join(args for _, args in seen)
        return "deployment/" in streams and "lgp/agents/" in streams

    assert httpx.get(f"{url}/tasks").status_code == 200
    until(listed, f"Flower lists tasks with their streams: {seen}", seconds=30)


def test_two_at_once(up: Callable[[], Terminal]) -> None:
    terminals = [up(), up()]

    urls = {terminal.pasted(title) for terminal in terminals for title in ("control plane", "Flower")}
    for terminal in terminals:
        output = terminal.run(f". {terminal.folder}/env; agentplane doctor")
        assert "0 fail" in output
        assert "workers: listener: listener@" in output
        assert "workers: operator: operator@" in output
        os.kill(terminal.pid, signal.SIGTERM)

    assert len(urls) == 4
    for terminal in terminals:
        until(terminal.ended, "SIGTERM ends it", terminal, 2 * PROMPTLY)
        assert terminal.status == 0
        leaves_nothing(terminal)


def test_ctrl_c_while_it_starts(up: Callable[[], Terminal]) -> None:
    terminal = up()
    until(lambda: "up: redis" in terminal.output, "`up` starts", terminal)

    terminal.type(b"\x03")

    until(terminal.ended, "Ctrl-C ends it", terminal, 2 * PROMPTLY)
    assert "Traceback" not in terminal.output
    leaves_nothing(terminal)


@pytest.mark.parametrize("end", ["killed", "hung up"])
def test_nothing_outlives_it(up: Callable[[], Terminal], end: str) -> None:
    terminal = up()
    terminal.pasted("Flower")
    until(lambda: "watcher started" in terminal.output, "the engine runs", terminal)

    if end == "killed":
        os.kill(terminal.pid, signal.SIGKILL)
    else:
        terminal.hang_up()

    until(terminal.ended, "`up` ends", terminal, 2 * PROMPTLY)
    leaves_nothing(terminal)


def test_a_process_that_dies_is_started_again(up: Callable[[], Terminal]) -> None:
    terminal = up()
    until(lambda: re.search(r"listener started \(pid=(\d+)\)", terminal.output), "the engine runs", terminal)
    listener = re.search(r"listener started \(pid=(\d+)\)", terminal.output)
    assert listener is not None

    os.kill(int(listener[1]), signal.SIGKILL)

    until(lambda: len(re.findall(r"listener started", terminal.output)) == 2, "the listener is started again", terminal)
    assert "died (code -9): started again" in terminal.output
    terminal.type(b"\x03")
    until(terminal.ended, "Ctrl-C ends it", terminal, 2 * PROMPTLY)
    leaves_nothing(terminal)
