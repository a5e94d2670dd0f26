"""Free loopback ports that stay free until their server has bound them.

A common way is to bind port 0, read the number that the kernel chose, and close the socket. Another process may then
take the port before the server binds it: a second stack that starts at the same time, or an outgoing connection, which
gets its port from the same range. Two measures prevent this:

- Ports come from 20000-32767, below the range from which Linux and macOS choose ports for outgoing connections and
  port-0 sockets. Only a program that asks for exactly this number can take it.
- A reservation is an exclusive `flock` on a file named after the port, in one folder per user and machine. The
  reserving process holds the lock until it ends; the kernel releases it even after a crash. Other stacks skip a port
  whose lock is taken, even while its server has not yet bound it or is being restarted.

A trial bind detects programs outside this project that use such a port.
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
    """Reserve a port until this process ends or `release` is called. Raises OSError when no port is free."""
    count = LAST - FIRST + 1
    start = random.SystemRandom().randrange(count)
    for port in (FIRST + (start + step) % count for step in range(count)):
        if port not in _reserved and _reserve(port):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {LOOPBACK} between {FIRST} and {LAST}; stop other stacks")


def free_ports(count: int) -> list[int]:
    """Reserve `count` different ports. Raises OSError."""
    return [free_port() for _ in range(count)]


def release(port: int) -> None:
    """Release a reserved port; other ports are ignored."""
    descriptor = _reserved.pop(port, None)
    if descriptor is not None:
        os.close(descriptor)


def _reserve(port: int) -> bool:
    # A released lock's file is not deleted: otherwise two processes could lock two files of the same name.
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
        # Servers set this option too: a connection in TIME_WAIT does not prevent them from binding the port.
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
