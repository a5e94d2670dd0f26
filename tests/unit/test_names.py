"""Names that more than one part builds, and the functions that read them back."""

from __future__ import annotations

import pytest

from engine.names import lgp_of_route_path, route_path

NAME = "hello-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("base_path", ["", "/", "/agents", "agents/", "/a/b", "/lgp/", "/lgp/lgp"])
def test_the_path_of_a_route_names_its_lgp_under_every_base_path(base_path: str) -> None:
    assert lgp_of_route_path(route_path(base_path, NAME)) == NAME


@pytest.mark.parametrize("path", ["", "/", "/lgp", "/lgp/", f"/{NAME}", f"/lgp/{NAME}/docs", "/other/app"])
def test_another_path_names_no_lgp(path: str) -> None:
    assert lgp_of_route_path(path) is None
