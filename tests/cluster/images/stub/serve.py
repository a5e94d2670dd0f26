"""A minimal stand-in for an Agent Server, in a real container: it serves `/ok`, and `/info` with the revision.

A real Agent Server takes seconds of CPU to start; dozens of them at once would test the node, not the data plane. Two
secrets of a deployment change the program: with STUB_CRASH it prints that text and exits with 3; with STUB_BURN, a
number of milliseconds, every request to `/burn` uses the CPU for that time.
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
        """Log nothing: most requests are probes."""


def burn() -> None:
    """Use the CPU for BURN_SECONDS."""
    until = time.process_time() + BURN_SECONDS
    while time.process_time() < until:
        sum(range(1000))


def main() -> None:
    if words := os.environ.get("STUB_CRASH"):
        print(f"stub: {words}", flush=True)
        sys.exit(3)
    # The kernel ignores SIGTERM for the first process of a container unless the process has a handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
