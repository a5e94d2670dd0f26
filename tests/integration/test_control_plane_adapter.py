"""The control plane adapter against a server with every fault that the adapter's contract names."""

from __future__ import annotations

import datetime as dt
import ssl
import time
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from engine.control_plane.client import LONGEST_RETRY_AFTER, ControlPlaneRejected, HttpControlPlane, retry_after
from engine.errors import (
    ControlPlaneDenied,
    ControlPlaneError,
    ControlPlaneNotFound,
    ControlPlaneThrottled,
    ControlPlaneUnavailable,
    ReportRefused,
    ReportsUnsupported,
)
from sandbox.control_plane.server import ControlPlane
from tests.support.certificates import self_signed
from tests.support.faulty_server import FaultyServer, Reply, Request, json_reply, refused_url, serving

KEY = "lsv2_pt_0123456789abcdef_0123456789"
WORKSPACE = "11111111-2222-4333-8444-555555555555"
REVISION_ROUTE = "PATCH /v2/deployments/{deployment_id}/revisions/{revision_id}/status"
DEPLOYMENT_ROUTE = "PATCH /v2/deployments/{deployment_id}/status"


OPENED: list[HttpControlPlane] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the adapters that the test opened with `reaching`."""
    yield
    while OPENED:
        OPENED.pop().close()


def reaching(url: str, **options: Any) -> HttpControlPlane:
    """Return an adapter for the server at `url`; a fixture closes the adapter after the test."""
    adapter = HttpControlPlane(
        url,
        **{
            "api_key": KEY,
            "workspace_id": WORKSPACE,
            "connect_seconds": 1.0,
            "read_seconds": 0.5,
            "report_revision_route": REVISION_ROUTE,
            "report_deployment_route": DEPLOYMENT_ROUTE,
            **options,
        },
    )
    OPENED.append(adapter)
    return adapter


def listing(count: int, *, echo: str = "next") -> Any:
    """Return a handler that lists `count` deployments; `echo` selects what the answer's `offset` holds."""
    resources = [{"id": f"d{n}", "name": f"app-{n}"} for n in range(count)]

    def handler(request: Request) -> Reply:
        limit, offset = int(request.query["limit"]), int(request.query["offset"])
        found = resources[offset : offset + limit]
        body: dict[str, Any] = {"resources": found}
        if echo != "nothing":
            body["offset"] = offset + len(found) if echo == "next" else offset
        return json_reply(body)

    return handler


def names(control_plane: HttpControlPlane) -> list[str]:
    return [resource["id"] for page in control_plane.deployments() for resource in page]


# --- reading


@pytest.mark.parametrize("echo", ["next", "request", "nothing"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_every_page_is_read_whatever_offset_says(count: int, echo: str) -> None:
    with serving(listing(count, echo=echo)) as server:
        assert names(reaching(server.url)) == [f"d{n}" for n in range(count)]
        assert server.connections == 1
        assert len(server.requests) == count // 100 + 1


def test_requests_carry_key_and_workspace_and_no_filter() -> None:
    with serving(listing(1)) as server:
        names(reaching(f"{server.url}/api-host/"))

        (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/api-host/v2/deployments")
    assert request.query == {"limit": "100", "offset": "0"}
    assert (request.headers["x-api-key"], request.headers["x-tenant-id"]) == (KEY, WORKSPACE)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_the_settings_and_the_url(status: int) -> None:
    with serving(lambda _: json_reply({"detail": "Forbidden"}, status)) as server:
        with pytest.raises(
            ControlPlaneDenied, match=r"AGENTPLANE_LANGSMITH_API_KEY.*AGENTPLANE_WORKSPACE_ID"
        ) as denied:
            names(reaching(server.url))
        assert server.url in str(denied.value)
    assert not denied.value.retryable
    assert KEY not in str(denied.value)


def test_a_key_that_the_answer_repeats_is_not_shown() -> None:
    echo = json_reply({"detail": f"The key {KEY} is revoked."}, 403)
    with serving(lambda _: echo) as server, pytest.raises(ControlPlaneDenied, match=r"The key \*\*\* is revoked"):
        names(reaching(server.url))


def test_404_for_the_list_means_a_wrong_url() -> None:
    with (
        serving(lambda _: json_reply({"detail": "Not Found"}, 404)) as server,
        pytest.raises(ControlPlaneUnavailable, match=r"no control plane.*AGENTPLANE_HOST_BACKEND_URL"),
    ):
        names(reaching(server.url))


@pytest.mark.parametrize("call", ["deployment", "listener"])
def test_a_resource_that_the_control_plane_does_not_know(call: str) -> None:
    with (
        serving(lambda _: json_reply({"detail": "Deployment ID d1 not found."}, 404)) as server,
        pytest.raises(ControlPlaneNotFound, match="Deployment ID d1 not found"),
    ):
        getattr(reaching(server.url), call)("d1")


def test_404_of_another_program_proves_nothing_about_a_deployment() -> None:
    with (
        serving(lambda _: Reply(status=404, body=b"<html>nginx</html>")) as server,
        pytest.raises(ControlPlaneUnavailable, match="not the answer of a control plane"),
    ):
        reaching(server.url).deployment("d1")


def test_throttling_carries_the_seconds_to_wait() -> None:
    with serving(lambda _: _throttled("17")) as server, pytest.raises(ControlPlaneThrottled) as throttled:
        names(reaching(server.url))
    assert throttled.value.retry_after == 17.0


def _throttled(after: str) -> Reply:
    return Reply(status=429, body=b"{}", headers={"Retry-After": after})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "99999999"}, LONGEST_RETRY_AFTER),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        ({"Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT", "Date": "Fri, 20 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"Retry-After": "Fri, 20 Nov 2026 09:00:00 GMT", "Date": "Fri, 20 Nov 2026 10:00:00 GMT"}, 0.0),
    ],
)
def test_retry_after_as_number_and_as_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers)) == seconds


def test_retry_after_as_date_without_the_servers_clock() -> None:
    now = dt.datetime(2026, 11, 20, 10, 0, tzinfo=dt.UTC)
    headers = httpx.Headers({"Retry-After": format_datetime(now + dt.timedelta(seconds=45), usegmt=True)})

    assert retry_after(headers, now) == 45.0


PAGE = orjson.dumps({"resources": [{"id": "d1"}], "offset": 1})

UNAVAILABLE: dict[str, tuple[Reply, str]] = {
    "500": (json_reply({"detail": "Internal Server Error"}, 500), "500 Internal Server Error"),
    "502 of a proxy": (Reply(status=502, body=b"<html>Bad Gateway</html>"), "502 Bad Gateway"),
    "silence": (Reply(silent=5), "no answer"),
    "a trickle": (Reply(body=PAGE, trickle=0.2), "not complete after"),
    "reset": (Reply(reset=True), "no answer"),
    "not HTTP": (Reply(raw=b"220 smtp.example.com\r\n"), "no answer"),
    "cut off": (Reply(body=PAGE, cut_at=10), "no answer"),
    "truncated JSON": (Reply(body=PAGE[:-9]), "broken or truncated JSON"),
    "HTML": (Reply(body=b"<html>", headers={"Content-Type": "text/html"}), "broken or truncated JSON .*text/html"),
    "an empty body": (Reply(), "broken or truncated JSON"),
    "a list": (json_reply([]), "not a list of deployments"),
    "no resources": (json_reply({"offset": 0}), "not a list of deployments"),
    "resources of numbers": (json_reply({"resources": [1, 2]}), "not a list of deployments"),
    "a redirect": (Reply(status=302, headers={"Location": "https://login.example.com/?x"}), "login.example.com"),
    "broken gzip": (Reply(body=b"no gzip", headers={"Content-Encoding": "gzip"}), "no answer"),
}


@pytest.mark.parametrize("fault", UNAVAILABLE)
def test_a_fault_is_unavailable_and_names_the_url_and_the_answer(fault: str) -> None:
    reply, words = UNAVAILABLE[fault]
    with serving(lambda _: reply) as server:
        with pytest.raises(ControlPlaneUnavailable, match=words) as raised:
            names(reaching(server.url))
        assert server.url in str(raised.value)
    assert raised.value.retryable
    assert KEY not in str(raised.value)


def test_503_keeps_retry_after() -> None:
    with (
        serving(lambda _: Reply(status=503, headers={"Retry-After": "9"})) as server,
        pytest.raises(ControlPlaneUnavailable) as raised,
    ):
        names(reaching(server.url))
    assert raised.value.retry_after == 9.0


@pytest.mark.parametrize("url", ["refused", "http://control-plane.invalid", "http://exa mple", "https://[::bad"])
def test_a_url_that_leads_nowhere(url: str) -> None:
    with pytest.raises(ControlPlaneUnavailable, match="AGENTPLANE_HOST_BACKEND_URL"):
        names(reaching(refused_url() if url == "refused" else url))


def test_a_fault_in_the_second_page_ends_the_list() -> None:
    whole = listing(150)

    def handler(request: Request) -> Reply:
        return whole(request) if request.query["offset"] == "0" else Reply(status=500)

    with serving(handler) as server:
        pages = reaching(server.url).deployments()
        assert len(next(pages)) == 100
        with pytest.raises(ControlPlaneUnavailable):
            next(pages)


def test_an_untrusted_certificate(certificate: tuple[ssl.SSLContext, Path]) -> None:
    context, authority = certificate
    with serving(listing(1), tls=context) as server:
        with pytest.raises(ControlPlaneUnavailable, match="AGENTPLANE_CONTROL_PLANE_CA_FILE"):
            names(reaching(server.url))
        assert names(reaching(server.url, ca_file=authority)) == ["d0"]


def test_a_key_with_characters_that_no_header_holds_is_not_shown() -> None:
    with serving(listing(0)) as server, pytest.raises(ControlPlaneUnavailable) as raised:
        names(reaching(server.url, api_key="secret\nkey"))
    assert "secret" not in str(raised.value)


# --- writing


def reply_of(status: int, detail: Any = None) -> Reply:
    return Reply(status=status) if detail is None else json_reply({"detail": detail}, status)


def report(server: FaultyServer, **options: Any) -> None:
    reaching(server.url, **options).report_revision("d1", "r1", "DEPLOYED", reason=None, message="fine")


def test_a_report_goes_to_the_configured_route() -> None:
    with serving(lambda _: json_reply({"id": "r1"})) as server:
        report(server, report_revision_route="POST /internal/{revision_id}/of/{deployment_id}")
        reaching(server.url).report_deployment("d/1", "READY", reason="up")

        revision, deployment = server.requests
    assert (revision.method, revision.path) == ("POST", "/internal/r1/of/d1")
    assert revision.json == {"status": "DEPLOYED", "reason": None, "message": "fine"}
    assert (deployment.method, deployment.path) == ("PATCH", "/v2/deployments/d%2F1/status")
    assert deployment.json == {"status": "READY", "reason": "up"}


@pytest.mark.parametrize(
    "reply",
    [reply_of(404), reply_of(404, "Not Found"), reply_of(405, "Method Not Allowed"), reply_of(403, "Forbidden")],
)
def test_a_control_plane_that_accepts_no_reports(reply: Reply) -> None:
    with (
        serving(lambda _: reply) as server,
        pytest.raises(ReportsUnsupported, match=r"accepts no reports.*AGENTPLANE_REPORT_REVISION_ROUTE"),
    ):
        report(server)


def test_disabled_reports_send_no_request() -> None:
    with serving(lambda _: json_reply({})) as server:
        with pytest.raises(ReportsUnsupported, match="are off"):
            report(server, report_revision_route="")
        assert server.requests == []


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (409, "Revision ID r1 is DEPLOYED; DEPLOYING cannot follow."),
        (422, [{"loc": ["body", "status"], "msg": "unknown status", "input": "the whole body"}]),
        (404, "Deployment ID d1 not found."),
    ],
)
def test_a_report_that_is_refused(status: int, detail: Any) -> None:
    with serving(lambda _: reply_of(status, detail)) as server, pytest.raises(ReportRefused) as refused:
        report(server)
    assert not isinstance(refused.value, ReportsUnsupported)
    assert "the whole body" not in str(refused.value)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (reply_of(401), ControlPlaneDenied),
        (reply_of(500), ControlPlaneUnavailable),
        (_throttled("3"), ControlPlaneThrottled),
    ],
)
def test_a_report_raises_the_same_errors_for_faults(reply: Reply, error: type[ControlPlaneError]) -> None:
    with serving(lambda _: reply) as server, pytest.raises(error):
        report(server)


@pytest.mark.parametrize("status", [200, 204, 404])
def test_a_deleted_deployment_may_be_gone_already(status: int) -> None:
    with serving(lambda _: Reply(status=status)) as server:
        reaching(server.url).report_deployment("d1", "DELETED", reason=None)


def test_the_version_is_published() -> None:
    with serving(lambda _: json_reply({"id": "l1"})) as server:
        reaching(server.url).publish_version("l1", "1.2.3")

        (request,) = server.requests
    assert (request.method, request.path, request.json) == ("PATCH", "/v2/listeners/l1", {"version": "1.2.3"})


@pytest.mark.parametrize("status", [400, 403, 404, 405, 422])
def test_an_unaccepted_version_is_denied_without_an_error(status: int) -> None:
    with serving(lambda _: reply_of(status, "no")) as server, pytest.raises(ControlPlaneDenied, match="not published"):
        reaching(server.url).publish_version("l1", "1.2.3")


def test_any_other_refusal_is_permanent() -> None:
    with serving(lambda _: reply_of(418, "teapot")) as server, pytest.raises(ControlPlaneRejected) as rejected:
        names(reaching(server.url))
    assert not rejected.value.retryable


# --- the sandbox's control plane, and what it costs


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as server:
        yield server


def test_against_the_sandbox(sandbox: ControlPlane) -> None:
    control_plane = reaching(sandbox.url, read_seconds=15.0)
    with httpx.Client(base_url=sandbox.url, headers={"X-Api-Key": KEY, "X-Tenant-Id": WORKSPACE}) as http:
        body = {"compute_type": "k8s", "compute_id": f"c-{uuid4()}", "compute_config": {"k8s_namespaces": ["agents"]}}
        listener = http.post("/v2/listeners", json=body).raise_for_status().json()
        request = {
            "name": "hello",
            "source": "external_docker",
            "source_config": {"listener_id": listener["id"], "listener_config": {"k8s_namespace": "agents"}},
            "source_revision_config": {"image_uri": f"sandbox.local/hello@sha256:{'0' * 64}"},
            "secrets": [],
        }
        deployment = http.post("/v2/deployments", json=request).raise_for_status().json()

    control_plane.publish_version(listener["id"], "1.2.3")
    assert control_plane.listener(listener["id"])["version"] == "1.2.3"
    assert names(control_plane) == [deployment["id"]]
    revision = control_plane.deployment(deployment["id"])["latest_revision_id"]
    control_plane.report_revision(deployment["id"], revision, "DEPLOYED", reason=None, message=None)
    with pytest.raises(ReportRefused, match="cannot follow"):
        control_plane.report_revision(deployment["id"], revision, "DEPLOYING", reason=None, message=None)
    with pytest.raises(ControlPlaneNotFound):
        control_plane.deployment(str(uuid4()))
    with pytest.raises(ControlPlaneDenied):
        names(reaching(sandbox.url, api_key="wrong", read_seconds=15.0))


def test_ten_thousand_deployments_cost_little_cpu() -> None:
    secrets = [{"name": f"SECRET_{n}", "value": "x" * 40} for n in range(5)]
    resource = {
        "source": "external_docker",
        "source_config": {
            "listener_id": WORKSPACE,
            "listener_config": {"k8s_namespace": "agents"},
            "resource_spec": {},
        },
        "source_revision_config": {"image_uri": f"registry.example.com/app@sha256:{'0' * 64}"},
        "secrets": secrets,
        "status": "READY",
        "updated_at": "2026-11-20T10:00:00Z",
    }
    pages = [
        orjson.dumps(
            {"resources": [{"id": f"{p}-{n}", "name": f"app-{n}", **resource} for n in range(100)], "offset": 0}
        )
        for p in range(100)
    ]

    def handler(request: Request) -> Reply:
        page = int(request.query["offset"]) // 100
        return Reply(body=pages[page] if page < 100 else b'{"resources":[],"offset":10000}')

    with serving(handler) as server:
        control_plane = reaching(server.url, read_seconds=15.0)
        next(iter(control_plane.deployments()))  # exclude imports and the connection from the measurement
        start = time.thread_time()
        assert len(names(control_plane)) == 10_000
        spent = time.thread_time() - start

    assert spent < 0.5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """Return a server context for 127.0.0.1 with a self-signed certificate, and the CA file for clients."""
    return self_signed(tmp_path_factory.mktemp("tls"))
