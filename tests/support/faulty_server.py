"""A real HTTP server on loopback: a handler chooses each answer, and answers can have faults of real servers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import orjson


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A complete answer, or an answer with a fault."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None  # close after that many bytes of the body, although Content-Length has the full length
    silent: float = 0  # seconds before the first byte
    trickle: float = 0  # seconds between two bytes of the body
    reset: bool = False  # break the connection without a byte
    raw: bytes | None = None  # exactly this instead of HTTP


def json_reply(value: Any, status: int = 200, **extra: Any) -> Reply:
    return Reply(status=status, body=orjson.dumps(value), headers={"Content-Type": "application/json"}, **extra)


Handler = Callable[[Request], Reply]


class FaultyServer:
    """Keeps connections alive; every request is recorded in `requests`."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
            stream = stack.enter_context(connection.makefile("rb"))
            while (request := _read(stream)) is not None:
                self.requests.append(request)
                if not self._answer(connection, self.handler(request)):
                    return

    def _answer(self, connection: socket.socket, reply: Reply) -> bool:
        """Send one answer; return whether the connection may go on."""
        if reply.silent and self._closed.wait(reply.silent):
            return False
        if reply.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if reply.raw is not None:
            connection.sendall(reply.raw)
            return False
        phrase = HTTPStatus(reply.status).phrase
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        head = f"HTTP/1.1 {reply.status} {phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        body = reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
        if reply.trickle:
            connection.sendall(head.encode())
            for byte in body:
                connection.sendall(bytes([byte]))
                if self._closed.wait(reply.trickle):
                    return False
        else:
            connection.sendall(head.encode() + body)
        return reply.cut_at is None


def _read(stream: Any) -> Request | None:
    line = stream.readline()
    if not line:
        return None
    method, target, _ = line.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while (header := stream.readline().strip()) != b"":
        name, _, value = header.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Request(method=method, path=parts.path, query=dict(parse_qsl(parts.query)), headers=headers, body=body)


@contextlib.contextmanager
def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> Iterator[FaultyServer]:
    server = FaultyServer(handler, tls)
    try:
        yield server
    finally:
        server.close()


def refused_url() -> str:
    """Return a URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def of_version(http: httpx.Client, version: str) -> Iterator[str]:
    """Run a proxy of the API server behind `http` that reports Kubernetes `version`; yields the URL of the proxy."""

    def answer(request: Request) -> Reply:
        if request.path == "/version":
            major, _, rest = version.removeprefix("v").partition(".")
            return json_reply({"major": major, "minor": rest.partition(".")[0], "gitVersion": version})
        headers = {name: value for name, value in request.headers.items() if name in ("content-type", "accept")}
        got = http.request(request.method, request.path, params=request.query, content=request.body, headers=headers)
        return Reply(status=got.status_code, body=got.content, headers={"Content-Type": got.headers["content-type"]})

    with serving(answer) as server:
        yield server.url
