"""Logs, metrics and error reports: their content, and that they contain no secret."""

from __future__ import annotations

import base64
import io
import logging
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import sentry_sdk
import structlog
from prometheus_client import generate_latest
from pydantic import SecretStr
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from engine import telemetry
from engine.errors import ClusterUnavailable, ObjectRefused
from engine.log.memory import MemoryLog
from engine.telemetry import CredentialScrubber
from sandbox.ports import free_port

KEY = "lsv2_pt_0123456789abcdef_0123456789"
EMAIL = "somebody@example.com"
PASSWORD = 'pa"ss wörd/1'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restore the process-wide set-up that these tests replace."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    telemetry.configure_sentry("", CredentialScrubber())
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks


def logged(form: str = "json", level: str = "info") -> io.StringIO:
    out = io.StringIO()
    telemetry.configure_logging(form, level, CredentialScrubber([KEY, PASSWORD]), process="listener", out=out)
    return out


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


# --- log lines


def test_a_line_is_one_json_object_with_what_is_bound() -> None:
    out = logged()

    with telemetry.bound(stream="deployment/1", version=7, act="ApplyLgp"):
        structlog.get_logger("x").info("applied", created=True)
        logging.getLogger("celery.worker").warning("task %s received", "advance")
    structlog.get_logger("x").info("outside")

    ours, theirs, outside = lines(out)
    for line in (ours, theirs):
        assert (line["stream"], line["version"], line["act"], line["process"]) == (
            "deployment/1",
            7,
            "ApplyLgp",
            "listener",
        )
    assert (ours["event"], ours["created"], ours["level"]) == ("applied", True, "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("task advance received", "celery.worker", "warning")
    assert "stream" not in outside


def test_the_console_form_is_for_people() -> None:
    out = logged("console")

    with telemetry.bound(stream="deployment/1"):
        structlog.get_logger("x").warning("drift", key=KEY)

    assert "drift" in out.getvalue()
    assert "stream=deployment/1" in out.getvalue()
    assert KEY not in out.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_secret_and_no_local_variable(form: str) -> None:
    out = logged(form)
    local_variable = "only-in-a-local-variable"

    def fail() -> None:
        raise RuntimeError(f"cannot log in with {PASSWORD}, not even {len(local_variable)} times")

    for log in (structlog.get_logger("x"), logging.getLogger("x")):
        try:
            fail()
        except RuntimeError:
            log.exception("failed")

    assert out.getvalue().count("RuntimeError") >= 2
    assert "pa" + '"' + "ss" not in out.getvalue()
    assert 'pa\\"ss' not in out.getvalue()
    assert "only-in-a-local-variable" not in out.getvalue()


@pytest.mark.parametrize("logger", ["httpx", "httpcore", "urllib3", "kubernetes"])
def test_request_lines_of_libraries_are_off_and_their_warnings_on(logger: str) -> None:
    out = logged()

    logging.getLogger(logger).info('HTTP Request: GET https://api.host "200 OK"')
    logging.getLogger(logger).warning("connection pool is full")

    assert [line["event"] for line in lines(out)] == ["connection pool is full"]


def test_levels_hold_for_everybody() -> None:
    out = logged(level="warning")

    structlog.get_logger("x").info("quiet")
    logging.getLogger("y").info("quiet")
    structlog.get_logger("x").warning("loud")

    assert [line["event"] for line in lines(out)] == ["loud"]


def test_values_that_json_does_not_know_do_not_lose_the_line() -> None:
    out = logged()

    structlog.get_logger("x").info("odd", path=object, surrogate="\ud800", huge=1 << 80, secret=SecretStr(KEY))

    (line,) = lines(out)
    assert line["event"] == "odd"
    assert line["secret"] == "**********"


def test_a_crash_of_a_thread_is_a_line() -> None:
    out = logged()

    def crash() -> None:
        raise ValueError(f"crashed with {KEY}")

    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()

    (line,) = lines(out)
    assert (line["event"], line["level"]) == ("crashed", "critical")
    assert "ValueError: crashed with ***" in line["exception"]


def test_warnings_are_lines_too() -> None:
    out = logged()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"old key {KEY}", stacklevel=1)

    assert "old key ***" in lines(out)[0]["event"]


def test_a_closed_stderr_does_not_stop_the_work() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    telemetry.configure_logging("json", "info", out=Broken())

    structlog.get_logger("x").info("goes nowhere")


# --- scrubbing


@pytest.mark.parametrize(
    "text",
    [
        PASSWORD,
        orjson.dumps({"password": PASSWORD}).decode(),
        f"redis://:{quote(PASSWORD, safe='')}@h/0",
        base64.b64encode(PASSWORD.encode()).decode(),
        repr({"password": KEY}),
    ],
)
def test_a_known_secret_is_hidden_in_every_encoding(text: str) -> None:
    cleaned = CredentialScrubber([KEY, PASSWORD]).text(text)

    assert telemetry.HIDDEN in cleaned
    for spelling in (KEY, PASSWORD, quote(PASSWORD, safe=""), base64.b64encode(PASSWORD.encode()).decode()):
        assert spelling not in cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.sig", "Authorization: Bearer ***"),
        ("authorization: Basic dXNlcjpwYXNzd29yZA==", "authorization: Basic ***"),
        ("postgres://app:hunter2@db:5432/app", "postgres://app:***@db:5432/app"),
        ("key lsv2_sk_abcdef0123456789_abc is revoked", "key *** is revoked"),
        ("http://127.0.0.1:8000/lgp/app@2", "http://127.0.0.1:8000/lgp/app@2"),
        ("basic authentication is off, bearer of bad news", "basic authentication is off, bearer of bad news"),
    ],
)
def test_other_credentials_are_known_by_their_pattern(text: str, cleaned: str) -> None:
    assert CredentialScrubber().text(text) == cleaned


def test_a_secret_of_three_letters_hides_nothing() -> None:
    assert CredentialScrubber(["the"]).text("the list of the deployments") == "the list of the deployments"


def test_nested_values_are_cleaned_also_keys() -> None:
    cleaned = CredentialScrubber([KEY]).value({KEY: [{"a": (KEY, 1, None, True)}], "b": KEY.encode()})

    assert cleaned == {"***": [{"a": ["***", 1, None, True]}], "b": "***"}


# --- metrics


def test_metrics_are_served_with_the_state_of_the_installation() -> None:
    events = MemoryLog()
    events.mark_dirty("deployment/1")
    port = free_port()
    telemetry.EVENTS.labels("LgpApplied").inc()

    stop = telemetry.serve_metrics(port, events, lambda: {"agentplane.operator": 3}, host="127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with pytest.raises(OSError, match="in use"):
            telemetry.serve_metrics(port, events, host="127.0.0.1")
    finally:
        stop()

    assert 'agentplane_streams{set="dirty"} 1.0' in text
    assert 'agentplane_streams{set="due"} 0.0' in text
    assert 'agentplane_queue_length{queue="agentplane.operator"} 3.0' in text
    assert 'agentplane_events_appended_total{type="LgpApplied"}' in text


def test_a_log_that_is_away_costs_its_gauges_only() -> None:
    class Away(MemoryLog):
        def dirty(self) -> list[str]:
            raise ConnectionError("Redis is away")

    def no_queues() -> dict[str, int]:
        raise ConnectionError("Redis is away")

    collector = telemetry.InstallationCollector(Away(), no_queues)
    telemetry.REGISTRY.register(collector)
    try:
        text = generate_latest(telemetry.REGISTRY).decode()
    finally:
        telemetry.REGISTRY.unregister(collector)

    assert 'set="due"' in text
    assert 'set="dirty"' not in text


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ClusterUnavailable("away"), "deferred"),
        (ObjectRefused("no"), "refused"),
        (ZeroDivisionError(), "crashed"),
    ],
)
def test_acts_are_counted_by_outcome(error: Exception, outcome: str) -> None:
    with pytest.raises(type(error)), telemetry.measured(f"component-{outcome}", "Try"):
        raise error

    labels = {"component": f"component-{outcome}", "act": "Try"}
    assert telemetry.REGISTRY.get_sample_value("agentplane_acts_total", {**labels, "outcome": outcome}) == 1
    assert telemetry.REGISTRY.get_sample_value("agentplane_act_seconds_count", labels) == 1


# --- error reports


class Recording(Transport):
    """A transport that keeps the reports."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.sent += [item.payload.json for item in envelope.items if item.payload.json is not None]


def reporting() -> Recording:
    transport = Recording()
    telemetry.configure_sentry(
        "https://public@sentry.invalid/1", CredentialScrubber([KEY, PASSWORD]), process="listener", transport=transport
    )
    return transport


def test_without_a_dsn_nothing_is_reported() -> None:
    telemetry.configure_sentry("", CredentialScrubber())

    assert not sentry_sdk.get_client().is_active()
    assert sentry_sdk.capture_message("hello") is None


def with_request(event: Any, _hint: Any) -> Any:
    """Add what the integration of a web framework adds."""
    return {**event, "request": {"data": "the whole" + " body"}}


def test_a_report_holds_the_error_and_no_secret_variable_or_body() -> None:
    transport = reporting()
    logged()

    def fail(argument: str) -> None:
        hidden_local = argument.replace("-", "_")
        raise RuntimeError(f"{KEY} was refused, {len(hidden_local)}")

    sentry_sdk.add_breadcrumb(message=f"GET /?key={KEY}", data={"body": PASSWORD})
    sentry_sdk.set_extra("settings", {"redis": PASSWORD})
    sentry_sdk.set_user({"email": EMAIL})
    sentry_sdk.get_current_scope().add_event_processor(with_request)
    with telemetry.bound(stream="deployment/1", act="ApplyLgp"):
        try:
            fail("quite-visible")
        except RuntimeError:
            structlog.get_logger("x").exception("act failed")

    (report,) = transport.sent
    text = orjson.dumps(report).decode()
    assert report["exception"]["values"][-1]["value"] == "*** was refused, 13"
    assert report["tags"]["stream"] == "deployment/1"
    assert report["tags"]["act"] == "ApplyLgp"
    assert report["tags"]["process"] == "listener"
    for hidden in (KEY, 'pa\\"ss', "quite_visible", "the whole body", EMAIL):
        assert hidden not in text
    assert "vars" not in report["exception"]["values"][-1]["stacktrace"]["frames"][-1]


def test_an_error_line_without_an_exception_is_a_report_and_a_warning_is_none() -> None:
    transport = reporting()
    logged()

    structlog.get_logger("x").warning("watch interrupted")
    structlog.get_logger("x").error("deletion guard tripped", deployments=9)

    (report,) = transport.sent
    assert report["message"] == "deletion guard tripped"
    assert report["contexts"]["line"]["deployments"] == "9"


def test_errors_of_libraries_are_reported_scrubbed() -> None:
    transport = reporting()
    logged()

    logging.getLogger("celery.worker").error("lost connection to redis://:%s@h/0", quote(PASSWORD, safe=""))

    (report,) = transport.sent
    assert quote(PASSWORD, safe="") not in orjson.dumps(report).decode()
    assert report["logger"] == "celery.worker"


def test_a_process_without_a_dsn_never_loads_what_would_report() -> None:
    code = (
        "import sys, workers.__main__, beat.__main__, workers.watcher, cli.main\n"
        "from engine import telemetry\n"
        "telemetry.configure_sentry('', telemetry.CredentialScrubber())\n"
        "print('sentry_sdk' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
