"""A crash of the API server: objects and versions survive, controllers continue, and watches must be opened again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx

from tests.conformance.client import Api, version
from tests.conformance.objects import Object, config_map, deployment
from tests.conformance.workloads import live_pods, rolled_out, settle
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually


def breaks(events: Iterator[Object]) -> bool:
    """Whether a stream ends, with or without an error, instead of delivering nothing."""
    try:
        for _ in events:  # events before the crash may arrive first
            pass
    except httpx.ReadTimeout:
        return False
    except httpx.HTTPError:
        return True
    return True


def test_nothing_is_lost(api_server: ApiServer, api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    api.create("deployments", deployment("web", replicas=2))
    eventually(lambda: len(live_pods(api)) == 2, "the Pods are there")
    with api.watch("configmaps", resourceVersion=version(made)) as events:
        api_server.restart()
        assert breaks(events)
    assert api.get("configmaps", "a") == made
    assert int(version(api.create("configmaps", config_map("b")))) > int(version(made))

    began = time.monotonic()
    settle(api, lambda: rolled_out(api, "web"), "the controllers carry on")
    assert time.monotonic() - began < 50


def test_a_watch_resumes_or_gets_410(api_server: ApiServer, api: Api) -> None:
    """A client that resumes its watch misses no event or gets 410; after 410 it lists again."""
    made = api.create("configmaps", config_map("a"))
    api.create("configmaps", config_map("between"))
    api_server.restart()
    with api.watch("configmaps", resourceVersion=version(made)) as events:
        event = next(events)
    if event["type"] == "ERROR":
        assert event["object"]["code"] == 410
    else:
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "between")

    since = api.list("configmaps")["metadata"]["resourceVersion"]
    with api.watch("configmaps", resourceVersion=since) as events:
        api.create("configmaps", config_map("after"))
        assert next(events)["object"]["metadata"]["name"] == "after"
