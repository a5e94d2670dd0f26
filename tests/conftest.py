"""Servers that tests share: one Redis, one embedded and one real Kubernetes API server per test session.

Each starts when the first test asks for it. Tests stay apart by a key prefix of their own (`prefix`) and a
namespace of their own (`namespace`), so they can run in any order and at once.
"""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import is_hypothesis_test

from sandbox.redis import RedisNotFoundError, RedisServer, find_server
from tests.support.api_servers import CLUSTERS, ApiServer, running_embedded, running_real


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C could not be tested.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Hundreds of examples reach the lines that a few tests reach anyway, and would take twice as long when measured.
    for item in items:
        if isinstance(item, pytest.Function) and is_hypothesis_test(item.obj):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for all tests that do not stop it; those that do start a RedisServer of their own."""
    try:
        find_server()
    except RedisNotFoundError as problem:
        pytest.skip(str(problem))
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test uses."""
    return f"test-{secrets.token_hex(5)}"


@pytest.fixture(scope="session")
def real_api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_real(tmp_path_factory.mktemp("real")) as server:
        yield server


@pytest.fixture(scope="session")
def embedded_api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_embedded(tmp_path_factory.mktemp("embedded")) as server:
        yield server


@pytest.fixture(scope="module", params=CLUSTERS)
def own_api_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """As `api_server`, but no other module's objects are in it: for tests that look at all namespaces."""
    start = {"real": running_real, "embedded": running_embedded}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(scope="session", params=CLUSTERS)
def api_server(request: pytest.FixtureRequest) -> ApiServer:
    """The test runs twice: against the embedded API server and against the real one."""
    server: ApiServer = request.getfixturevalue(f"{request.param}_api_server")
    return server


@pytest.fixture(scope="session")
def http(api_server: ApiServer) -> Iterator[httpx.Client]:
    """The administrator's requests to the API server; one connection pool per server."""
    with api_server.http() as client:
        yield client


@pytest.fixture
def namespace(http: httpx.Client) -> str:
    """A fresh namespace. It goes with the server: deleting hundreds would only slow the tests after it down."""
    name = f"test-{secrets.token_hex(5)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    http.post("/api/v1/namespaces", json=body).raise_for_status()
    return name


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder for `langgraph deploy`, with one secret."""
    (tmp_path / "agent.py").touch()
    config = {"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["."], "env": {"GREETING": "hello"}}
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    return tmp_path
