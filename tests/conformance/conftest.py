"""Fixtures of the conformance cases."""

from __future__ import annotations

import httpx
import pytest

from tests.conformance.client import Api, install_definition
from tests.conformance.objects import Object, widget_definition


@pytest.fixture
def api(http: httpx.Client, namespace: str) -> Api:
    """A client in a new namespace."""
    return Api(http, namespace)


@pytest.fixture(scope="session")
def widgets(http: httpx.Client) -> Object:
    """The custom resource `widgets.example.dev`, installed once per server."""
    return install_definition(Api(http, ""), widget_definition())
