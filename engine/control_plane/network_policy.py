"""Whether the data plane's own NetworkPolicy may be the cause of a failed connection, judged by the error.

A policy drops the first packet of a connection (a connect timeout) or rejects it (refused, unreachable or not
permitted, depending on the network plugin). Errors after the connection, certificate errors and unknown names have
other causes.
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
"""Errors that occur only after a connection was made."""
AFTER_CONNECTING = re.compile(r"handshake operation timed out|^Timeout (reading from|writing to) ")
"""Messages of errors after the connection whose class is that of a failed connection (Python's ssl, redis-py)."""
NOT_CONNECTED = (httpx.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError, TimeoutError)


def may_forbid(error: BaseException, policy: str, value: str) -> str:
    """Return a clause that names `policy`, and the `value` of the chart that allows the connection.

    The clause is empty if the error has another cause, or if `policy` is empty because the chart made none.
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
    """Yield an error and its causes, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        reason = getattr(error, "reason", None)  # urllib3 keeps the cause there
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
