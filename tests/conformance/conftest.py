"""Fixtures of the conformance cases."""

from __future__ import annotations

import httpx
import pytest

from tests.conformance.client import Api, eventually
from tests.conformance.objects import Object, widget_definition


@pytest.fixture
def api(http: httpx.Client, namespace: str) -> Api:
    """A client in a new namespace."""
    return Api(http, namespace)


@pytest.fixture(scope="session")
def widgets(http: httpx.Client) -> Object:
    """The custom resource `widgets.example.dev`, installed once per server."""
    return install_definition(Api(http, ""), widget_definition())


def install_definition(api: Api, crd: Object) -> Object:
    """Create a CustomResourceDefinition unless it exists, and wait until the server serves its resources."""
    name = crd["metadata"]["name"]
    if api.find("customresourcedefinitions", name) is None:
        api.create("customresourcedefinitions", crd)

    def established() -> Object | None:
        found = api.get("customresourcedefinitions", name)
        conditions = {item["type"]: item["status"] for item in found.get("status", {}).get("conditions") or []}
        return found if conditions.get("Established") == "True" else None

    found: Object = eventually(established, f"{name} is established")
    spec = crd["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    eventually(lambda: api.http.get(path).is_success, f"{path} is served")
    return found
