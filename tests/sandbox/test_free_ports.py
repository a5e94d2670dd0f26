"""Reservation of free ports, also by several processes at the same time."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from sandbox import ports


def test_ports_differ_and_can_be_bound() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        assert ports.FIRST <= port <= ports.LAST
        with socket.socket() as server:
            server.bind((ports.LOOPBACK, port))
        ports.release(port)


def test_processes_that_start_together_get_different_ports() -> None:
    script = "from sandbox.ports import free_ports; print(*free_ports(30), flush=True); input()"
    stacks = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        found = [int(text) for stack in stacks if stack.stdout for text in stack.stdout.readline().split()]
    finally:
        for stack in stacks:
            stack.communicate("\n")
    assert len(found) == 120
    assert len(set(found)) == 120


def test_a_port_in_use_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((ports.LOOPBACK, 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(ports, "FIRST", taken)
        monkeypatch.setattr(ports, "LAST", taken)
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()


def test_a_released_port_can_be_reserved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.free_port()
    monkeypatch.setattr(ports, "FIRST", port)
    monkeypatch.setattr(ports, "LAST", port)
    with pytest.raises(OSError, match="no free port"):
        ports.free_port()
    ports.release(port)
    assert ports.free_port() == port
    ports.release(port)
