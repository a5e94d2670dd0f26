"""The Redis server of the stack: durable, restartable, and ended together with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from sandbox.ports import free_port, release
from sandbox.redis import RedisNotFoundError, RedisServer, find_server

try:
    find_server()
except RedisNotFoundError as problem:
    pytest.skip(str(problem), allow_module_level=True)


def is_alive(pid: int) -> bool:
    """Zombies (ended, not yet waited for) do not count as running."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # no /proc here; the signal was accepted
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_it_is_durable_and_never_evicts(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.config_get("bind")["bind"] == "127.0.0.1"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_data_survive_a_restart_on_the_same_port(how: str) -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        url, pid = server.url, server.pid
        client.set("kept", "yes")
        if how == "kill":  # data in the file survive without a last fsync
            server.kill()
        server.restart()
        assert server.url == url
        assert server.pid != pid
        assert client.get("kept") == b"yes"


def test_nothing_is_left_behind() -> None:
    with RedisServer() as server:
        pid, directory = server.pid, server.directory
    assert not is_alive(pid)
    assert not directory.exists()


def test_it_ends_when_its_owner_is_killed() -> None:
    script = "from sandbox.redis import RedisServer; print(RedisServer().start().pid, flush=True); input()"
    owner = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.communicate()
    wait_until_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_in_the_foreground_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    command = [sys.executable, "-m", "sandbox.redis", "--port", str(port), "--dir", str(tmp_path / "data")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"ready: redis://127.0.0.1:{port}/0")
        with redis.Redis(port=port) as client:
            assert client.ping()
        process.send_signal(number)
        assert process.wait(20) == 0
        with pytest.raises(redis.ConnectionError), redis.Redis(port=port) as client:
            client.ping()
    finally:
        process.kill()
        process.communicate()
        release(port)
