"""Runs the control plane: `serve` in the foreground of a process, `ControlPlane` in a thread for tests.

with ControlPlane({"key-1": workspace}) as plane:
    httpx.get(f"{plane.url}/v2/deployments", headers=plane.headers())
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

from sandbox.control_plane.api import Settings, create_app
from sandbox.control_plane.rules import seed_listener
from sandbox.control_plane.store import Document, Store

HOST = "127.0.0.1"
GRACE_SECONDS = 1
"""How long open connections may delay a shutdown."""


class _Server(uvicorn.Server):
    """A uvicorn server that sets `serving` once its port is bound."""

    def __init__(self, store: Store, settings: Settings, port: int, path: str = "") -> None:
        super().__init__(
            uvicorn.Config(
                create_app(store, settings, path),
                host=HOST,
                port=port,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self.serving = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()
        self.announce()

    def announce(self) -> None:
        """Called once, after the port is bound; does nothing here."""


class _Announcing(_Server):
    """Prints the address once the port is bound."""

    def announce(self) -> None:
        print(f"control plane: ready at http://{HOST}:{self.config.port}", file=sys.stderr, flush=True)


def seed(store: Store, workspace: str, compute_id: str, namespaces: Sequence[str]) -> Document:
    """Create or update a listener in a transaction of its own (see `rules.seed_listener`)."""
    with store.transaction():
        return seed_listener(store, workspace, compute_id, namespaces)


def serve(store: Store, settings: Settings, port: int) -> None:
    """Serve on loopback until SIGTERM or SIGINT. Raises SystemExit when the port cannot be bound."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops on these signals, restores the former handlers and raises the signals again: ignore them then.
        signal.signal(number, lambda *_: None)
    _Announcing(store, settings, port).run()


class ControlPlane:
    """A control plane in a thread of this process, on a port that the kernel chooses, until the `with` block ends.

    `keys` maps API keys to workspace ids. `db` is a SQLite file that outlives the block and can be opened again; by
    default the state is in memory. `path` is a prefix of all API paths, e.g. `/api-host` as in a self-hosted LangSmith.
    `host` is the address to listen on: pods of a real cluster cannot reach the loopback address of this machine.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        *,
        db: Path | str = ":memory:",
        infer_listener: bool = False,
        path: str = "",
        host: str = HOST,
    ) -> None:
        self._keys = dict(keys)
        self.settings = Settings(keys=self._keys, infer_listener=infer_listener)
        self.store = Store(db)
        self._socket = socket.create_server((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}{path}"
        self._server = _Server(self.store, self.settings, self.port, path)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def admit(self, key: str, workspace: str) -> dict[str, str]:
        """Add an API key for a workspace; return the headers that a client with this key sends."""
        self._keys[key] = workspace
        return self.headers(key)

    def headers(self, key: str | None = None) -> dict[str, str]:
        """Return the headers that a client with this API key sends; by default with the first key."""
        key = key or next(iter(self.settings.keys))
        return {"X-Api-Key": key, "X-Tenant-Id": self.settings.keys[key]}

    def __enter__(self) -> ControlPlane:
        self._thread.start()
        if not self._server.serving.wait(30):
            raise RuntimeError(f"the control plane did not serve on {self.url} within 30 s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self.store.close()
        with contextlib.suppress(OSError):
            self._socket.close()


def parse_listener(text: str) -> tuple[str, str, list[str]]:
    """Parse `WORKSPACE:COMPUTE_ID:ns1,ns2` into (workspace, compute id, namespaces). Raises ValueError."""
    workspace, compute_id, namespaces = [*text.split(":"), "", ""][:3]
    names: list[Any] = [name for name in namespaces.split(",") if name]
    if text.count(":") != 2 or not (workspace and compute_id and names):
        raise ValueError(f"'{text}' must be WORKSPACE:COMPUTE_ID:NAMESPACE[,NAMESPACE...]")
    return workspace, compute_id, names
