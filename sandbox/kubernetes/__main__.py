"""`python -m sandbox.kubernetes`: the sandbox's Kubernetes API server with its controllers, on 127.0.0.1."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
from pathlib import Path

from sandbox.kubernetes.server import known_token, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.kubernetes", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--state", type=Path, required=True, help="SQLite file that stores the objects")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="kubeconfig file to write")
    parser.add_argument(
        "--token",
        default="",
        help="bearer token (default: SANDBOX_KUBERNETES_TOKEN, else the one in the kubeconfig file, else a random one)",
    )
    parser.add_argument("--no-tls", action="store_true", help="plain HTTP (kubectl and Helm then send no token)")
    parser.add_argument(
        "--no-controllers", action="store_true", help="do not run the workload and ServiceAccount controllers"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    configured = options.token or os.environ.get("SANDBOX_KUBERNETES_TOKEN")
    token = configured or known_token(options.kubeconfig) or secrets.token_urlsafe(16)
    asyncio.run(
        serve(options.port, options.state, options.kubeconfig, token, not options.no_tls, not options.no_controllers)
    )


if __name__ == "__main__":
    main()
