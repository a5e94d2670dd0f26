"""One cluster that runs pods, shared by all tests of installations: a real API server with RBAC, and a node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.redis import RedisNotFoundError, find_server
from tests.chart.conftest import own_real
from tests.conftest import ApiServer
from tests.installation.cluster import Cluster, running

__all__ = ["own_real"]


@pytest.fixture(scope="package")
def cluster(own_real: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        find_server()
    except RedisNotFoundError as problem:
        pytest.skip(str(problem))
    with running(own_real, tmp_path_factory.mktemp("cluster")) as found:
        yield found
