"""Requests an Agent Server's health path ten times a second and records every failed request."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType

import httpx

HERTZ = 10.0
"""Requests a second."""


class Prober:
    """Requests `url` in a thread while the `with` block runs.

    `requests` counts all requests; `failures` holds one text for each request without an answer 200.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.url = url
        self.headers = dict(headers or {})
        self.requests = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(15)

    def _run(self) -> None:
        with httpx.Client(timeout=5, headers=self.headers) as client:
            due = time.monotonic()
            while not self._stop.is_set():
                self.requests += 1
                try:
                    response = client.get(self.url)
                    if response.status_code != 200:
                        self.failures.append(f"{response.status_code} {response.text[:120]}")
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                due += 1 / HERTZ
                self._stop.wait(max(0.0, due - time.monotonic()))
