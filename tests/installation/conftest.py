"""The cluster that all tests of installations share: a real API server with RBAC, and a node that runs pods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import envtest
from sandbox.redis import RedisNotFoundError, find_server
from tests.installation.cluster import Cluster, running


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := envtest.available():
        pytest.skip(f"real API server: {reason}")
    try:
        find_server()
    except RedisNotFoundError as problem:
        pytest.skip(str(problem))
    with running(tmp_path_factory.mktemp("cluster")) as found:
        yield found
