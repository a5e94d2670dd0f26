"""Health checks against a server that gives every answer that an ingress can give."""

from __future__ import annotations

import re
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from engine.control_plane.health import LONGEST_DETAIL, HttpHealth
from tests.support.certificates import self_signed
from tests.support.faulty_server import Reply, Request, json_reply, refused_url, serving

OK = json_reply({"ok": True, "version": "0.1"})


def probe(**options: Any) -> HttpHealth:
    return HttpHealth(**{"timeout_seconds": 1.0, **options})


def test_an_agent_server_that_says_ok_is_healthy() -> None:
    with serving(lambda _: OK) as server:
        health = probe().check(f"{server.url}/lgp/app/ok")

        assert [(request.method, request.path) for request in server.requests] == [("GET", "/lgp/app/ok")]
    assert health.ok
    assert health.detail == '200 {"ok":true,"version":"0.1"}'


UNHEALTHY: dict[str, tuple[Reply, str]] = {
    "no pods yet": (Reply(status=503, body=b"no endpoints available"), "503 no endpoints available"),
    "no such path": (Reply(status=404, body=b"default backend - 404"), "404 default backend"),
    "not ok": (json_reply({"ok": False}), "not the"),
    "a landing page": (Reply(body=b"<html>Welcome</html>"), "not the .*Welcome"),
    "another JSON": (json_reply(["ok"]), "not the"),
    "silence": (Reply(silent=10), "no answer: ReadTimeout"),
    "a trickle": (Reply(body=b"x" * 50, trickle=0.1), "not complete"),
    "reset": (Reply(reset=True), "no answer"),
    "half an answer": (Reply(body=OK.body, cut_at=3), "no answer"),
    "not HTTP": (Reply(raw=b"\x15\x03\x01\x00\x02\x02\x16"), "no answer"),
}


@pytest.mark.parametrize("case", UNHEALTHY)
def test_any_other_answer_is_unhealthy_with_a_reason(case: str) -> None:
    reply, words = UNHEALTHY[case]
    with serving(lambda _: reply) as server:
        start = time.monotonic()
        health = probe().check(server.url)

    assert time.monotonic() - start < 5
    assert not health.ok
    assert re.search(words, health.detail)


@pytest.mark.parametrize("url", ["http://hostname.invalid/ok", "not a url", "", "ftp://x/ok", "https://[bad"])
def test_a_url_that_leads_nowhere_never_raises(url: str) -> None:
    assert not probe().check(url).ok


def test_a_refused_connection() -> None:
    health = probe().check(refused_url())

    assert not health.ok
    assert "ConnectError" in health.detail


def test_every_check_opens_a_connection_of_its_own() -> None:
    with serving(lambda _: OK) as server:
        health = probe()
        assert all(health.check(server.url).ok for _ in range(3))
        assert server.connections == 3


def test_a_redirect_within_the_host_is_followed() -> None:
    def handler(request: Request) -> Reply:
        return OK if request.path == "/ok/" else Reply(status=307, headers={"Location": "/ok/"})

    with serving(handler) as server:
        assert probe().check(f"{server.url}/ok").ok


def test_a_redirect_to_another_host_is_not_followed() -> None:
    with serving(lambda _: OK) as other:
        away = Reply(status=302, headers={"Location": f"http://localhost:{other.port}/login"})
        with serving(lambda _: away) as server:
            health = probe().check(server.url)

        assert other.requests == []
    assert not health.ok
    assert "redirect to localhost, which is not followed" in health.detail


def test_a_redirect_in_a_circle_ends() -> None:
    with serving(lambda _: Reply(status=302, headers={"Location": "/again"})) as server:
        health = probe().check(server.url)

    assert "more than 3 redirects" in health.detail


def test_the_detail_is_one_short_line_without_secrets() -> None:
    body = b"error:\n\ttoken=sesame-sesame \x1b[31mred\x1b[0m " + b"x" * 10_000
    with serving(lambda _: Reply(status=500, body=body)) as server:
        health = probe(secrets=("sesame-sesame",)).check(server.url)

    assert len(health.detail) <= LONGEST_DETAIL
    assert health.detail.isprintable()
    assert health.detail.startswith("500 error: token=***")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"), "agents.example.com")


def test_certificates_are_verified_unless_told_otherwise(certificate: tuple[ssl.SSLContext, Path]) -> None:
    context, authority = certificate
    with serving(lambda _: OK, tls=context) as server:
        unknown = probe().check(server.url)
        vouched = probe(ca_file=authority).check(server.url)
        unverified = probe(verify_tls=False).check(server.url)

    assert not unknown.ok
    assert "AGENTPLANE_HEALTH_CHECK_CA_FILE" in unknown.detail
    assert vouched.ok
    assert unverified.ok


def test_an_address_is_connected_to_while_the_hostname_is_asked_for(
    certificate: tuple[ssl.SSLContext, Path],
) -> None:
    context, authority = certificate
    with serving(lambda _: OK, tls=context) as server:
        health = probe(ca_file=authority, address=f"127.0.0.1:{server.port}").check("https://agents.example.com/ok")

        (request,) = server.requests
    assert health.ok
    assert request.headers["host"] == "agents.example.com"
