"""The cluster adapter against an API server that misbehaves: the error for each fault, and whether it is retried."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
import structlog
from kubernetes import client

from engine.errors import ClusterUnavailable, ObjectRefused
from engine.kubernetes.cluster import LIST_TRIES, KubernetesCluster
from engine.ports import ObjectKey
from tests.support.faulty_server import Handler, Reply, Request, json_reply, refused_url, serving

KEY = ObjectKey(api_version="v1", kind="ConfigMap", namespace="n", name="settings")


def reaching(url: str) -> KubernetesCluster:
    return KubernetesCluster(client.Configuration(host=url), connect_seconds=1.0, read_seconds=0.5, page_size=2)


def status(code: int, reason: str, message: str, **details: Any) -> Reply:
    return json_reply({"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}, code)


WHOLE = json_reply({"kind": "ConfigMap", "metadata": {"name": "settings", "resourceVersion": "1"}})

PASSING: dict[str, tuple[Reply, str]] = {
    "silence": (Reply(silent=5), "no answer"),
    "reset": (Reply(reset=True), "no answer"),
    "half an answer": (Reply(body=WHOLE.body, cut_at=20), "no answer"),
    "broken JSON": (Reply(body=b'{"kind": "Confi'), "broken JSON"),
    "not HTTP": (Reply(raw=b"SSH-2.0-OpenSSH\r\n"), "no answer"),
    "500": (status(500, "InternalError", "etcdserver: leader changed"), "leader changed"),
    "503 of a proxy": (Reply(status=503, body=b"<html>no upstream</html>"), "no upstream"),
    "504": (status(504, "Timeout", "request timed out"), "timed out"),
    "too many requests": (status(429, "TooManyRequests", "slow down"), "slow down"),
    "401": (status(401, "Unauthorized", "Unauthorized"), "renew the kubeconfig"),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_temporary_fault_is_unavailable_and_names_the_answer(fault: str) -> None:
    reply, words = PASSING[fault]
    with serving(lambda _: reply) as server, pytest.raises(ClusterUnavailable, match=words) as raised:
        reaching(server.url).get(KEY)

    assert raised.value.retryable


def test_a_refused_connection_is_unavailable_and_names_the_server() -> None:
    url = refused_url()

    with pytest.raises(ClusterUnavailable, match=url):
        reaching(url).get(KEY)


def test_retry_after_of_the_server_is_kept() -> None:
    busy = Reply(status=429, body=b"busy", headers={"Retry-After": "7"})
    with serving(lambda _: busy) as server, pytest.raises(ClusterUnavailable) as raised:
        reaching(server.url).get(KEY)

    assert raised.value.retry_after == 7.0


def test_a_slow_peer_costs_the_timeout_and_no_more() -> None:
    with serving(lambda _: Reply(silent=30)) as server:
        start = time.monotonic()
        with pytest.raises(ClusterUnavailable):
            reaching(server.url).get(KEY)

    assert time.monotonic() - start < 5


def test_after_a_fault_the_next_request_works() -> None:
    replies = [Reply(body=WHOLE.body, cut_at=5), WHOLE]
    with serving(lambda _: replies.pop(0)) as server:
        cluster = reaching(server.url)
        with pytest.raises(ClusterUnavailable):
            cluster.get(KEY)

        assert cluster.get(KEY) is not None


def test_connections_are_reused() -> None:
    with serving(lambda _: WHOLE) as server:
        cluster = reaching(server.url)
        for _ in range(20):
            cluster.get(KEY)

        assert server.connections == 1


def test_a_404_of_a_starting_api_server_does_not_prove_a_missing_kind() -> None:
    def starting(request: Request) -> Reply:
        return Reply(status=500, body=b"[-]poststarthook failed") if request.path == "/readyz" else missing(request)

    def missing(request: Request) -> Reply:
        return Reply(status=404, body=b"404 page not found\n")

    def ready(request: Request) -> Reply:
        return Reply(body=b"ok") if request.path == "/readyz" else missing(request)

    lgp = {"apiVersion": "apps.langchain.ai/v1alpha1", "kind": "LGP", "metadata": {"name": "x", "namespace": "n"}}
    for handler, error in ((starting, ClusterUnavailable), (ready, ObjectRefused)):
        with serving(handler) as server, pytest.raises(error):
            reaching(server.url).apply(lgp, manager="m")


def page(names: list[str], token: str = "") -> Reply:
    items = [{"metadata": {"name": name}} for name in names]
    return json_reply({"items": items, "metadata": {"resourceVersion": "9", "continue": token}})


def paging(pages: dict[str, Callable[[], Reply]]) -> Handler:
    return lambda request: pages[request.query.get("continue", "")]()


def test_an_expired_continue_token_starts_the_list_over() -> None:
    expired = [status(410, "Expired", "continue token is too old"), page(["b"])]
    pages = paging({"": lambda: page(["a"], "t"), "t": lambda: expired.pop(0)})
    with serving(pages) as server:
        found = reaching(server.url).list("v1", "ConfigMap", "n")

        assert [item["metadata"]["name"] for item in found] == ["a", "b"]
        assert [request.query.get("continue", "") for request in server.requests] == ["", "t", "", "t"]


def test_a_list_whose_token_always_expires_fails() -> None:
    pages = paging({"": lambda: page(["a"], "t"), "t": lambda: status(410, "Expired", "too old")})
    with serving(pages) as server, pytest.raises(ClusterUnavailable, match=f"expired {LIST_TRIES} times"):
        reaching(server.url).list("v1", "ConfigMap", "n")


def test_an_incomplete_list_fails() -> None:
    pages = paging({"": lambda: page(["a"], "t"), "t": lambda: Reply(body=page(["b"]).body, cut_at=12)})
    with serving(pages) as server, pytest.raises(ClusterUnavailable):
        reaching(server.url).list("v1", "ConfigMap", "n")


def test_another_program_at_the_url_is_not_a_list() -> None:
    with (
        serving(lambda _: json_reply({"hello": "world"})) as server,
        pytest.raises(ClusterUnavailable, match="did not answer with a list"),
    ):
        reaching(server.url).list("v1", "ConfigMap", "n")


def test_threads_share_one_pool() -> None:
    with serving(lambda _: WHOLE) as server:
        cluster = reaching(server.url)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: cluster.get(KEY), range(64)))

        assert len(answers) == 64
        assert server.connections <= 8


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (status(503, "ServiceUnavailable", "starting"), "starting"),
        (Reply(status=500, body=b"component", cut_at=1, headers={"Content-Length": "50"}), "no answer"),
    ],
)
def test_a_watch_that_is_refused_in_a_broken_way_goes_on(refusal: Reply, error: str) -> None:
    added = orjson.dumps({"type": "ADDED", "object": {"metadata": {"name": "late", "resourceVersion": "10"}}})
    watches = [refusal, Reply(body=added + b"\n")]

    def handler(request: Request) -> Reply:
        return (watches.pop(0) if watches else Reply(silent=5)) if "watch" in request.query else page([])

    with serving(handler) as server:
        cluster = KubernetesCluster(
            client.Configuration(host=server.url), connect_seconds=1.0, read_seconds=0.5, watch_seconds=0.1
        )
        events = cluster.watch("v1", "ConfigMap", "n")
        with structlog.testing.capture_logs() as logged:
            seen = [next(events), next(events)]
        cluster.close()

    assert [event.type for event in seen] == ["SYNCED", "ADDED"]
    assert error in logged[0]["error"]
