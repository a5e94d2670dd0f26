"""The least that passes for an Agent Server, in a real container: `/ok`, and `/info` with the revision.

A real Agent Server takes seconds of CPU to start; dozens of them at once would measure the node, not the data plane.
STUB_CRASH in a deployment's secrets makes the program end at once with that text as its last words, STUB_BURN makes
every request to `/burn` use the CPU for that many milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOUNTED_AT = os.environ.get("MOUNT_PREFIX", "")
BURN_SECONDS = float(os.environ.get("STUB_BURN", "0")) / 1000
ANSWERS = {
    "/ok": {"ok": True},
    "/info": {"host": {"revision_id": os.environ.get("LANGSMITH_HOST_REVISION_ID")}},
    "/burn": {"burnt": BURN_SECONDS},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.removeprefix(MOUNTED_AT)
        if path == "/burn":
            burn()
        found = ANSWERS.get(path)
        body = json.dumps(found or {}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not worth a line."""


def burn() -> None:
    """Use the CPU."""
    until = time.process_time() + BURN_SECONDS
    while time.process_time() < until:
        sum(range(1000))


def main() -> None:
    if words := os.environ.get("STUB_CRASH"):
        print(f"stub: {words}", flush=True)
        sys.exit(3)
    # The first process of a container ignores a signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
