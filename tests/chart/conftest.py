"""API servers for the tests of the chart.

These tests install and remove CustomResourceDefinitions that other tests need, so they share no API server with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.kubernetes.permissions import (
    HTTP_ROUTE,
    SCALED_OBJECT,
    VIRTUAL_SERVICE,
)
from engine.names import (
    SECRET_PROVIDER_CLASS,
)
from tests.chart.rendering import RELEASE, helm
from tests.chart.rights import (
    Stage,
    define,
)
from tests.support.api_servers import CLUSTERS, ApiServer, running_embedded, running_real
from tests.support.namespaces import jobs_done, make_namespace
from tests.support.operator_stack import install_crd


@pytest.fixture(scope="package")
def own_real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_real(tmp_path_factory.mktemp("real")) as server, jobs_done(server):
        yield server


@pytest.fixture(scope="package")
def own_embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_embedded(tmp_path_factory.mktemp("kubernetes")) as server, jobs_done(server):
        yield server


@pytest.fixture(scope="package", params=CLUSTERS)
def server(request: pytest.FixtureRequest) -> ApiServer:
    """The test runs on the embedded API server and on a real one."""
    found: ApiServer = request.getfixturevalue(f"own_{request.param}")
    return found


@pytest.fixture
def namespaces(server: ApiServer) -> Callable[[], str]:
    """A function that makes a namespace and returns its name."""
    return lambda: make_namespace(server)


@pytest.fixture
def releases(server: ApiServer) -> Iterator[Callable[[str], Any]]:
    """A function that returns a Helm client for a namespace; the fixture uninstalls the release at its end."""
    opened: list[Any] = []

    def open_(namespace: str) -> Any:
        opened.append(helm.Config(kubeconfig_path=server.kubeconfig, namespace=namespace))
        return opened[-1]

    yield open_
    for config in opened:
        config.uninstall(RELEASE, ignore_not_found=True)
        config.close()


@pytest.fixture(scope="package")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server that checks owner references, with the CustomResourceDefinitions of all layouts."""
    plugins = ["OwnerReferencesPermissionEnforcement"]
    with running_real(tmp_path_factory.mktemp("strict"), admission_plugins=plugins) as server:
        install_crd(server)  # first: the owner check discovers new kinds only twice a minute
        with server.http() as http:
            for api_version, kind in (HTTP_ROUTE, VIRTUAL_SERVICE, SCALED_OBJECT, SECRET_PROVIDER_CLASS):
                define(http, api_version, kind)
        yield server


@pytest.fixture(scope="package")
def stages(strict: ApiServer) -> Iterator[Callable[[str], Stage]]:
    """A function that returns the `Stage` of a layout; the first call for a layout installs its release."""
    found: dict[str, Stage] = {}

    def stage(layout: str) -> Stage:
        if layout not in found:
            found[layout] = Stage(strict, layout)
        return found[layout]

    yield stage
    for one in found.values():
        one.close()
