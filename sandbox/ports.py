"""Free loopback ports that stay free until the server they are meant for has bound them.

Asking the kernel for port 0 and closing the socket again leaves a gap in which anybody may take the port: a
second stack that starts at the same time, or any outgoing connection of this machine, which the kernel
numbers from the same range. Two things close the gap:

- ports are taken from 20000-32767, below the range from which Linux and macOS number outgoing connections and
  port-0 sockets, so only a program that asks for that very number can be in the way;
- a reservation is an exclusive `flock` on a file named after the port, in one folder per user for the whole
  machine, held by the reserving process until it ends (however it ends: the kernel drops the lock). Another
  stack skips a port whose lock is taken, also in the moment when its server has not bound it yet or is
  being restarted.

A program outside the project that happens to use such a port is noticed by the trial bind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

LOOPBACK = "127.0.0.1"
FIRST, LAST = 20_000, 32_767

_reserved: dict[int, int] = {}  # port -> file descriptor that holds its lock


def free_port() -> int:
    """Reserve one port for the life of this process, or until `release`. OSError when none is left."""
    count = LAST - FIRST + 1
    start = random.SystemRandom().randrange(count)
    for port in (FIRST + (start + step) % count for step in range(count)):
        if port not in _reserved and _reserve(port):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {LOOPBACK} between {FIRST} and {LAST}; end other stacks first")


def free_ports(count: int) -> list[int]:
    """Reserve `count` different ports."""
    return [free_port() for _ in range(count)]


def release(port: int) -> None:
    """Give a reservation back before the process ends; unknown ports are ignored."""
    descriptor = _reserved.pop(port, None)
    if descriptor is not None:
        os.close(descriptor)


def _reserve(port: int) -> bool:
    # The file stays when the lock goes: unlinking it would let two processes lock two files of one name.
    descriptor = os.open(_folder() / str(port), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    if not _can_bind(port):
        os.close(descriptor)
        return False
    _reserved[port] = descriptor
    return True


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections in TIME_WAIT do not count as somebody using the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"agentplane-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
