"""A minimal stand-in for an Agent Server: `/ok`, and `/info` with the revision. It starts in a few milliseconds."""

from __future__ import annotations

import json
import os
import socket
import sys

MOUNTED_AT = os.environ.get("MOUNT_PREFIX", "")
ANSWERS = {
    "/ok": {"ok": True},
    "/info": {"host": {"revision_id": os.environ.get("LANGSMITH_HOST_REVISION_ID")}},
}


def answer(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        received = connection.recv(65536)
        if not received:
            return
        request += received
    path = request.split(b" ")[1].decode().removeprefix(MOUNTED_AT)
    found = ANSWERS.get(path)
    status, body = ("200 OK", json.dumps(found)) if found else ("404 Not Found", "{}")
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    connection.sendall(f"{head}\r\n\r\n{body}".encode())


def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                try:
                    answer(connection)
                except OSError:
                    continue


if __name__ == "__main__":
    main(int(sys.argv[1]))
