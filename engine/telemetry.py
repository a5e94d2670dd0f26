"""Telemetry of a process: log lines, metrics and, if a DSN is set, error reports. They never contain a secret.

Log lines go to stderr, each one JSON object or one console line. Lines of the engine (structlog) and of libraries
(stdlib logging) pass the same processors, so every line within `bound(stream=…, act=…)` has these values. The last
step before the stream is the `CredentialScrubber`. It works on the finished text, so it also finds secrets in
tracebacks, in nested values and in a library's repr. It knows the values of our own secrets in all their encodings,
and the patterns of other common credentials. (What a crashed pod wrote is scrubbed elsewhere:
`operator/observation/scrubbing.py`.)

Metrics are Prometheus metrics in a registry of our own (`REGISTRY`), served on a port if one is set. Gauges of the
installation (queues, dirty and due streams) are read at each scrape.

Sentry is off without a DSN. With a DSN, reports have no request bodies, no local variables and no personal data, and
every string in them passes the scrubber.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, TextIO, TypeAlias
from urllib.parse import quote

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.errors import AgentplaneError
from engine.event import Json, JsonObject
from engine.log.contract import EventLog
from engine.settings import Settings

if TYPE_CHECKING:
    from sentry_sdk.integrations import Integration
    from sentry_sdk.transport import Transport
    from sentry_sdk.types import Breadcrumb, BreadcrumbHint, Event, Hint

LogLine: TypeAlias = MutableMapping[str, Json]
"""The values of one log line, by name."""

HIDDEN = "***"
SHORTEST_SECRET = 4
"""Characters. To hide shorter values would make logs unreadable and protect nothing."""

LIBRARIES: Mapping[str, int] = {
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,  # a line for every request, at INFO
    "kubernetes": logging.WARNING,
    "urllib3": logging.WARNING,
    "asyncio": logging.WARNING,
    "kombu": logging.WARNING,
}
"""Logger of a library → its lowest level, above ours."""

SHAPES = (
    rb"(?P<bearer>(?i:authorization\W{1,4}basic\s+|bearer\s+))[A-Za-z0-9._~+/=-]{12,}",
    rb"(?P<url>[a-z][a-z0-9+.-]*://[^\s/:@\"']*:)[^\s/@\"']+(?=@)",
    rb"lsv2_[A-Za-z]+_[A-Za-z0-9_]{8,}",
)
"""Patterns of other credentials: authorization headers, passwords in URLs, LangSmith keys."""


class CredentialScrubber:
    """Replaces secrets in finished text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spellings = {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in _spellings(secret)}
        known = [re.escape(form) for form in sorted(spellings, key=len, reverse=True)]
        self._pattern = re.compile(b"|".join([*known, *SHAPES]))

    def clean(self, text: bytes) -> bytes:
        return self._pattern.sub(_hide, text)

    def text(self, text: str) -> str:
        return self.clean(text.encode(errors="replace")).decode(errors="replace")

    def value(self, value: object) -> Json:
        """Return a JSON-like value with every string cleaned, also keys."""
        match value:
            case str():
                return self.text(value)
            case bytes():
                return self.text(value.decode(errors="replace"))
            case dict():
                return {self.value(key): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case None | bool() | int() | float():
                return value
            case _:
                return self.text(str(value))


def _spellings(secret: str) -> set[bytes]:
    """Return the encodings of a secret: plain, in JSON, in a URL and in base64."""
    raw = secret.encode()
    return {
        raw,
        json.dumps(secret)[1:-1].encode(),
        orjson.dumps(secret)[1:-1],
        quote(secret, safe="").encode(),
        base64.b64encode(raw),
    }


def _hide(match: re.Match[bytes]) -> bytes:
    kept = match.groupdict()
    return (kept["bearer"] or kept["url"] or b"") + HIDDEN.encode()


# --- logs --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bound(**values: object) -> Iterator[None]:
    """Add `values` to every log line that this thread writes in the block."""
    with structlog.contextvars.bound_contextvars(**values):
        yield


def configure(settings: Settings, process: str, *, integrations: Sequence[Integration] = ()) -> CredentialScrubber:
    """Set up logs and error reports of the process `process`; return the scrubber. A later call replaces this one."""
    scrubber = CredentialScrubber(settings.secrets())
    configure_logging(settings.log_format, settings.log_level, scrubber, process=process)
    dsn = settings.sentry_dsn.get_secret_value() if settings.sentry_dsn else ""
    configure_sentry(dsn, scrubber, process=process, integrations=integrations)
    return scrubber


def configure_logging(
    form: str = "json",
    level: str = "info",
    scrubber: CredentialScrubber | None = None,
    *,
    process: str = "",
    out: TextIO | None = None,
) -> None:
    """Send every log line of this process to `out` (default: stderr), in the form `json` or `console`."""
    scrubber = scrubber or CredentialScrubber()
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _Named(process),
    ]
    render = _Renderer(form, scrubber, colors=out is None and sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, _report_to_sentry, structlog.processors.format_exc_info, render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: _Lines(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_Stream(out))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(least)
    for name, floor in LIBRARIES.items():
        logging.getLogger(name).setLevel(max(least, floor))
    logging.captureWarnings(True)
    sys.excepthook = _log_crash
    threading.excepthook = lambda args: _log_crash(args.exc_type, args.exc_value, args.exc_traceback)


class _Lines:
    """The last logger of structlog: it writes finished lines, whatever their level."""

    def __init__(self, out: TextIO | None) -> None:
        self._stream = _Stream(out)

    def msg(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    debug = info = warning = warn = error = critical = fatal = exception = log = msg


class _Stream:
    """`out`, or the current stderr. A line is one write, so the lines of several threads do not mix."""

    def __init__(self, out: TextIO | None) -> None:
        self._out = out

    def write(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # a closed stream must not end the process
            (self._out or sys.stderr).write(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):
            (self._out or sys.stderr).flush()


class _Named:
    """Adds the name of the process to every line."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _logger: object, _method: str, line: LogLine) -> LogLine:
        if self._process:
            line.setdefault("process", self._process)
        return line


class _Renderer:
    """The last processor: renders the values of a line as scrubbed text."""

    def __init__(self, form: str, scrubber: CredentialScrubber, *, colors: bool) -> None:
        self._scrubber = scrubber
        self._console = (
            # The plain traceback: the pretty ones show local variables.
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
            if form == "console"
            else None
        )

    def __call__(self, logger: Json, method: str, line: LogLine) -> str:
        if self._console is not None:
            return self._scrubber.text(str(self._console(logger, method, line)))
        ordered = {key: line.pop(key) for key in ("timestamp", "level", "event") if key in line}
        ordered.update(line)
        try:
            text = orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:  # a lone surrogate or a huge number: rare, and no reason to lose the line
            text = json.dumps(self._scrubber.value(ordered), skipkeys=True).encode()
        return self._scrubber.clean(text).decode()


def _log_crash(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger(__name__).critical("crashed", exc_info=(kind, error, traceback))


# --- metrics -----------------------------------------------------------------------------------------------

REGISTRY = CollectorRegistry()

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

EVENTS = Counter("agentplane_events_appended", "Events appended to the event log, by type", ["type"], registry=REGISTRY)
ACTS = Counter(
    "agentplane_acts",
    "Acts performed, by component, act and outcome (done, deferred, refused, crashed)",
    ["component", "act", "outcome"],
    registry=REGISTRY,
)
ACT_SECONDS = Histogram(
    "agentplane_act_seconds", "Duration of acts, seconds", ["component", "act"], buckets=_FAST, registry=REGISTRY
)
ADVANCES = Counter(
    "agentplane_advances",
    "Calls that advanced a stream, by component and outcome",
    ["component", "outcome"],
    registry=REGISTRY,
)
POLLS = Counter("agentplane_polls", "Polls of the control plane, by outcome", ["outcome"], registry=REGISTRY)
POLL_SECONDS = Histogram(
    "agentplane_poll_seconds",
    "Duration of polls that read the control plane, seconds",
    buckets=_FAST,
    registry=REGISTRY,
)


class InstallationCollector(Collector):
    """Gauges that are read at each scrape. A value that cannot be read is missing from that scrape."""

    def __init__(self, events: EventLog, queues: Callable[[], Mapping[str, int]] | None = None) -> None:
        """`queues` returns the length of every queue by name."""
        self._events = events
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        sizes: dict[str, Callable[[], int]] = {
            "dirty": lambda: len(self._events.dirty()),
            "due": lambda: len(self._events.due()),
        }
        gauge = GaugeMetricFamily(
            "agentplane_streams", "Streams that wait for a worker (dirty) or for their timer (due)", labels=["set"]
        )
        for name, size in sizes.items():
            with contextlib.suppress(Exception):
                gauge.add_metric([name], size())
        yield gauge
        lengths = GaugeMetricFamily("agentplane_queue_length", "Messages that wait in a queue", labels=["queue"])
        with contextlib.suppress(Exception):
            for name, length in (self._queues() if self._queues else {}).items():
                lengths.add_metric([name], length)
        yield lengths


def serve_metrics(
    port: int,
    events: EventLog | None = None,
    queues: Callable[[], Mapping[str, int]] | None = None,
    host: str = "0.0.0.0",
) -> Callable[[], None]:
    """Serve `REGISTRY` on `port` from a thread; return what stops it. Raises OSError if the port is taken."""
    collector = InstallationCollector(events, queues) if events is not None else None
    if collector is not None:
        REGISTRY.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=REGISTRY)
    except OSError:
        if collector is not None:
            REGISTRY.unregister(collector)
        raise

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)
        if collector is not None:
            REGISTRY.unregister(collector)

    return stop


@contextlib.contextmanager
def measured(component: str, act: str) -> Iterator[None]:
    """Count and time an act of `component`, which the block performs."""
    outcome = "done"
    start = time.perf_counter()
    try:
        yield
    except AgentplaneError as error:
        outcome = "deferred" if error.retryable else "refused"
        raise
    except BaseException:
        outcome = "crashed"
        raise
    finally:
        ACT_SECONDS.labels(component, act).observe(time.perf_counter() - start)
        ACTS.labels(component, act, outcome).inc()


@contextlib.contextmanager
def timed(observe: Callable[[float], None]) -> Iterator[None]:
    """Call `observe` with the seconds that the block took, also when the block raises."""
    start = time.perf_counter()
    try:
        yield
    finally:
        observe(time.perf_counter() - start)


# --- error reports -----------------------------------------------------------------------------------------

UNWANTED = ("request", "user", "modules")
"""Parts of an error report that are never sent."""


def configure_sentry(
    dsn: str,
    scrubber: CredentialScrubber,
    *,
    process: str = "",
    integrations: Sequence[Integration] = (),
    transport: Transport | None = None,
) -> None:
    """Send error reports to `dsn`; an empty `dsn` turns error reports off. `transport` is for tests."""
    if not dsn:
        if (loaded := _sentry()) is not None:
            loaded.get_client().close(timeout=0)
            loaded.get_global_scope().set_client(None)
        return
    import sentry_sdk  # imported here: without a DSN, a start saves 0.06 s of CPU

    def before_send(event: Event, _hint: Hint) -> Event | None:
        cleaned: Json = scrubber.value({key: part for key, part in event.items() if key not in UNWANTED})
        for frame in _frames(cleaned):
            frame.pop("vars", None)
        return cleaned  # type: ignore[no-any-return]

    def before_breadcrumb(crumb: Breadcrumb, _hint: BreadcrumbHint) -> Breadcrumb | None:
        return scrubber.value(crumb)  # type: ignore[no-any-return]

    sentry_sdk.init(
        dsn=dsn,
        # No personal data: send_default_pii is False by default, and setting it is deprecated. An environment variable
        # that enables the Spotlight sidecar would set it, so Spotlight is off.
        spotlight=False,
        include_local_variables=False,
        max_request_body_size="never",
        auto_enabling_integrations=False,  # these add arguments, queries and bodies
        integrations=list(integrations),
        before_send=before_send,
        before_breadcrumb=before_breadcrumb,
        transport=transport,
    )
    sentry_sdk.set_tag("process", process)


def _frames(event: object) -> Iterator[JsonObject]:
    """Yield every stack frame of an error report."""
    if isinstance(event, dict):
        frames = event.get("frames")
        if isinstance(frames, list):
            yield from (frame for frame in frames if isinstance(frame, dict))
        for part in event.values():
            yield from _frames(part)
    elif isinstance(event, list):
        for part in event:
            yield from _frames(part)


def _sentry() -> ModuleType | None:
    """Return Sentry's module if it is loaded, that is, if a DSN was set before."""
    return sys.modules.get("sentry_sdk")


def _report_to_sentry(_logger: object, method: str, line: LogLine) -> LogLine:
    """Report the engine's log lines of level error and above; `before_send` scrubs the reports."""
    sentry_sdk = _sentry()
    if sentry_sdk is not None and method in ("error", "critical") and sentry_sdk.get_client().is_active():
        with sentry_sdk.new_scope() as scope:
            for name in ("stream", "version", "act"):
                if name in line:
                    scope.set_tag(name, str(line[name]))
            scope.set_context("line", {key: str(item) for key, item in line.items() if key != "exc_info"})
            error = line.get("exc_info")
            if error:
                sentry_sdk.capture_exception(None if error is True else error)
            else:
                sentry_sdk.capture_message(str(line.get("event")), level="fatal" if method == "critical" else "error")
    return line
