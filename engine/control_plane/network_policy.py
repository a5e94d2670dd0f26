"""Whether our own NetworkPolicy may be why a connection fails, as far as the error tells.

A policy drops the first packet of a connection (a timeout while connecting) or rejects it (refused, unreachable, not
permitted, depending on the network plugin). A connection that was made, a certificate and a name that does not exist
have other causes.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator

import httpx
import urllib3.exceptions

REJECTED = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.ETIMEDOUT}
)
CONNECTED = (
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.ProtocolError,
    urllib3.exceptions.ReadTimeoutError,
    urllib3.exceptions.ProtocolError,
    ssl.SSLError,
)
"""What goes wrong only after a connection was made."""
AFTER_CONNECTING = re.compile(r"handshake operation timed out|^Timeout (reading from|writing to) ")
"""What errors say of it that have the class of one that could not connect: of Python's ssl, of redis-py."""
NOT_CONNECTED = (httpx.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError, TimeoutError)


def may_forbid(error: BaseException, policy: str, value: str) -> str:
    """Return a clause that names `policy` and the chart's `value` which opens it.

    It is empty where the error has other causes, and where `policy` is: the chart made none.
    """
    if not policy or not _not_connected(error):
        return ""
    return f"; the NetworkPolicy {policy} may forbid it: {value} in the chart's values"


def _not_connected(error: BaseException) -> bool:
    causes = list(_causes(error))
    if any(isinstance(cause, CONNECTED) or AFTER_CONNECTING.search(str(cause)) for cause in causes):
        return False
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return cause.errno == socket.EAI_AGAIN  # the name server did not answer
        if isinstance(cause, NOT_CONNECTED) or (isinstance(cause, OSError) and cause.errno in REJECTED):
            return True
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        reason = getattr(error, "reason", None)  # where urllib3 keeps it
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
