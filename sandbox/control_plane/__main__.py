"""`python -m sandbox.control_plane`: the control plane as a process.

The first `--workspace` belongs to the first `--api-key`, and so on; a workspace that is named twice has two keys.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from sandbox.control_plane.api import Settings
from sandbox.control_plane.rules import Refused
from sandbox.control_plane.server import parse_listener, seed, serve
from sandbox.control_plane.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.control_plane", description="A LangSmith-like control plane on loopback."
    )
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--db", type=Path, required=True, help="SQLite file with the state; created when missing")
    parser.add_argument("--workspace", type=uuid.UUID, action="append", required=True, help="workspace id; repeatable")
    parser.add_argument(
        "--api-key", action="append", required=True, help="API key of a workspace: the first for the first, and so on"
    )
    parser.add_argument(
        "--seed-listener",
        action="append",
        default=[],
        metavar="WORKSPACE:COMPUTE_ID:NS[,NS...]",
        help="create this listener unless it exists; its id is derived from workspace and compute id, and printed",
    )
    parser.add_argument(
        "--infer-listener",
        action="store_true",
        help="assign a deployment without listener_id to the only listener instead of answering 400",
    )
    options = parser.parse_args(arguments)
    if len(options.workspace) != len(options.api_key):
        parser.error(
            f"{len(options.workspace)} --workspace but {len(options.api_key)} --api-key: give one key per workspace"
        )
    if len(set(options.api_key)) != len(options.api_key):
        parser.error("the same --api-key is given twice: give each workspace a key of its own")
    keys = dict(zip(options.api_key, map(str, options.workspace), strict=True))
    store = Store(options.db)
    try:
        for text in options.seed_listener:
            workspace, compute_id, namespaces = parse_listener(text)
            if workspace not in keys.values():
                parser.error(f"--seed-listener {text}: workspace {workspace} is unknown; add --workspace {workspace}")
            listener = seed(store, workspace, compute_id, namespaces)
            print(f"control plane: listener {listener['id']} ({compute_id})", file=sys.stderr, flush=True)
    except (ValueError, Refused) as problem:
        parser.error(f"--seed-listener {problem}")
    try:
        serve(store, Settings(keys=keys, infer_listener=options.infer_listener), options.port)
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
