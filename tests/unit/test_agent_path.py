"""The path of an Agent Server, and the function that reads it back."""

from __future__ import annotations

import pytest

from engine.agent_path import agent_path, lgp_of_path

NAME = "hello-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("base_path", ["", "/", "/agents", "agents/", "/a/b", "/lgp/", "/lgp/lgp"])
def test_the_path_of_a_route_names_its_lgp_under_every_base_path(base_path: str) -> None:
    assert lgp_of_path(agent_path(base_path, NAME)) == NAME


@pytest.mark.parametrize("path", ["", "/", "/lgp", "/lgp/", f"/{NAME}", f"/lgp/{NAME}/docs", "/other/app"])
def test_another_path_names_no_lgp(path: str) -> None:
    assert lgp_of_path(path) is None
