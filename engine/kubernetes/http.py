"""HTTP to one Kubernetes API server: credentials, connection pool, timeouts, and the engine's errors.

The `kubernetes` client reads the configuration (in-cluster account or kubeconfig, exec and token refresh, CA, proxy)
and makes the connection pool. Requests are plain URLs and JSON, without the client's generated models, which would cost
more CPU than the rest of an apply.

`refuse` decides by status code what an answer means. Every message contains the server's own message:
- 404 without a `Status` (`404 page not found`) means that the kind is not served. An API server that has just started
  answers the same for every custom resource until it has read their definitions. So this 404 counts only from an API
  server that reports itself ready.
- 401 is retried (`ClusterUnavailable`): it is about our account, not about the object, and passes once the account
  works again.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlencode

import orjson
import urllib3
from kubernetes import client, config
from urllib3.exceptions import HTTPError, SSLError

from engine.errors import ClusterUnavailable, ObjectConflict, ObjectRefused, SettingsError, WatchExpired
from engine.event import Json, JsonObject

USER_AGENT = "agentplane"
JSON_TYPE = "application/json"
APPLY_TYPE = "application/apply-patch+yaml"
MERGE_TYPE = "application/merge-patch+json"

PASSING = frozenset({408, 429})
"""Statuses below 500 that may pass: request timeout, and too many requests."""

NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON allows, but that YAML reads as the end of a line or rejects."""

KIND_UNKNOWN_YET = "cannot find RESTMapping"
"""Message, with status 403, of an API server that checks owner references, about an owner whose kind it has known for
less than half a minute."""
OWNER_CHECKED = "cannot set blockOwnerDeletion"
"""Message of such an API server about an owner whose finalizers our account may not update."""
UNREASONED = re.compile(r" is forbidden:\s*$")
"""The whole message about an apply that would create an object although our account may only patch."""

MALFORMED = "failed to create typed patch object"
"""Message, with status 500, about an apply whose fields do not match the schema: a retry cannot help."""


def encoded(body: Json, content_type: str) -> bytes:
    """Return `body` as JSON; for an apply, as JSON that YAML reads in the same way, because the server reads YAML.

    Otherwise the server would fold a line separator in a value (of a Secret, for example) and the spaces around it.
    """
    content = orjson.dumps(body)
    if content_type != APPLY_TYPE:
        return content
    return NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", content.decode()).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer of the API server."""

    status: int
    body: JsonObject
    """The decoded JSON; for most errors a `Status`."""
    retry_after: float | None = None
    """Seconds of Retry-After; None when the server gave none."""

    @property
    def reason(self) -> str:
        return str(self.body.get("reason") or "")

    @property
    def message(self) -> str:
        return str(self.body.get("message") or f"HTTP {self.status}")

    @property
    def details(self) -> JsonObject:
        details = self.body.get("details")
        return details if isinstance(details, dict) else {}


def load_configuration(kubeconfig: Path | None = None, context: str | None = None) -> client.Configuration:
    """Return the client configuration: of `kubeconfig`, else of the pod's account, else of the default kubeconfig.

    Raises SettingsError, which names the source that was tried.
    """
    configuration = client.Configuration()
    if kubeconfig is None and context is None:
        with contextlib.suppress(config.ConfigException):
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            return configuration
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig) if kubeconfig else None,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (config.ConfigException, OSError) as error:
        file = kubeconfig or config.KUBE_CONFIG_DEFAULT_LOCATION
        place = "" if kubeconfig or context else "this process has no service account of a pod, and "
        raise SettingsError(
            f"{place}kubeconfig {file} ({f'context {context}' if context else 'current context'}) cannot be used: "
            f"{str(error).rstrip('.')}; set AGENTPLANE_KUBECONFIG to a readable kubeconfig and AGENTPLANE_KUBE_CONTEXT "
            "to one of its contexts, or run in a pod with a service account"
        ) from error
    return configuration


class KubernetesHttp:
    """A connection pool to one API server. Threads can share it; a forked child makes its own pool."""

    def __init__(
        self, configuration: client.Configuration, *, connect_seconds: float, read_seconds: float, pool_size: int
    ) -> None:
        self._configuration = configuration
        self._configuration.connection_pool_maxsize = pool_size
        self._configuration.keep_alive = True
        self._timeout = urllib3.Timeout(connect=connect_seconds, read=read_seconds)
        self._connect_seconds = connect_seconds
        self._pools: tuple[int, urllib3.PoolManager] | None = None
        """Id of the process that made the pools, and the pools."""
        self._streams: set[urllib3.BaseHTTPResponse] = set()
        self.closed = threading.Event()
        """Set by `close`: every stream ends, and no thread opens another one."""

    @property
    def host(self) -> str:
        return str(self._configuration.host)

    def close(self) -> None:
        """End every stream, also those in other threads, and close the connections."""
        self.closed.set()
        for response in list(self._streams):
            with contextlib.suppress(Exception):  # the stream has just ended by itself
                response.shutdown()
        pools, self._pools = self._pools, None
        if pools is not None and pools[0] == os.getpid():
            pools[1].clear()

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Json = None,
        content_type: str = JSON_TYPE,
    ) -> Answer:
        """Send one request; return the answer, whatever its status. Raises ClusterUnavailable if there is no answer."""
        response = self._send(method, path, query, body, content_type)
        return self._answer(response.status, response.data, response.headers, f"{method} {path}")

    def ready(self) -> bool:
        """Whether the API server reports that it has started."""
        return self._send("GET", "/readyz").status < 500

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Json = None,
        content_type: str = JSON_TYPE,
    ) -> urllib3.BaseHTTPResponse:
        payload = None if body is None else encoded(body, content_type)
        headers = self._headers()
        if payload is not None:
            headers["Content-Type"] = content_type
        try:
            return self._pool().request(
                method,
                self._url(path, query),
                body=payload,
                headers=headers,
                timeout=self._timeout,
                retries=False,
                redirect=False,
            )
        except (HTTPError, OSError) as error:
            self._no_answer(method, path, error)

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str | int], silence: float) -> Iterator[Iterator[bytes]]:
        """Yield the lines of a long answer as they arrive. `silence` is the read timeout, seconds.

        The connection is closed at the end of the block, because a part of the answer may still be in it. Raises
        WatchExpired for 410, ClusterUnavailable, ObjectRefused.
        """
        timeout = urllib3.Timeout(connect=self._connect_seconds, read=silence)
        try:
            response = self._pool().request(
                "GET",
                self._url(path, query),
                headers=self._headers(),
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (HTTPError, OSError) as error:
            self._no_answer("GET", path, error)
        self._streams.add(response)
        try:
            if self.closed.is_set():  # checked after the stream was added, so that `close` cannot miss it
                raise ClusterUnavailable(f"watch {path}: this process closed the connection to {self.host}")
            if response.status != 200:
                self._refuse_stream(response, path)
            yield self._lines(response, path)
        finally:
            self._streams.discard(response)
            response.close()

    def _refuse_stream(self, response: urllib3.BaseHTTPResponse, path: str) -> NoReturn:
        what = f"watch {path}"
        try:
            data = response.data
        except (HTTPError, OSError) as error:
            self._no_answer("GET", path, error)
        self.refuse(self._answer(response.status, data, response.headers, what), what)

    def _lines(self, response: urllib3.BaseHTTPResponse, path: str) -> Iterator[bytes]:
        rest = b""
        while True:
            try:
                part = response.read1(1 << 16)
            except (HTTPError, OSError) as error:
                self._no_answer("GET", path, error)
            if not part:
                return
            *lines, rest = (rest + part).split(b"\n")
            yield from (line for line in lines if line)

    def refuse(self, answer: Answer, what: str) -> NoReturn:
        """Raise the error for `answer`; `what` names the attempt, for example `apply Service ns/x`."""
        message = f"{what}: {answer.message}"
        status, reason = answer.status, answer.reason
        if status == 500 and MALFORMED in message:
            raise ObjectRefused(message, reason=reason, status=status)
        if status in PASSING or status >= 500:
            error = ClusterUnavailable(message, reason=reason, status=status)
            error.retry_after = answer.retry_after
            raise error
        match status:
            case 401:
                fix = f"{self.host} does not accept the credentials: renew the kubeconfig or service account in use"
                raise ClusterUnavailable(f"{message}; {fix}", reason=reason, status=status)
            case 403 if KIND_UNKNOWN_YET in answer.message:
                raise ClusterUnavailable(
                    f"{message}; the API server will know that kind in less than a minute", reason=reason, status=status
                )
            case 403 if "cannot" in answer.message or UNREASONED.search(answer.message):
                raise ObjectRefused(f"{message}{_permission_fix(answer)}", reason=reason, status=status)
            case 404:
                raise ObjectRefused(f"{message}; {_missing_fix(answer)}", reason=reason, status=status)
            case 409:
                raise ObjectConflict(message, reason=reason, status=status)
            case 410:
                raise WatchExpired(message, reason=reason, status=status)
            case _:
                raise ObjectRefused(message, reason=reason, status=status)

    def kind_missing(self, answer: Answer) -> bool:
        """Whether a 404 means that the kind (not the object or its namespace) is not served.

        Raises ClusterUnavailable while the API server starts, because it does not know all kinds yet.
        """
        if answer.status != 404 or answer.details.get("name") or answer.details.get("kind"):
            return False
        if not self.ready():
            raise ClusterUnavailable(f"Kubernetes API {self.host} is starting: {answer.message}", status=503)
        return True

    def _pool(self) -> urllib3.PoolManager:
        pools = self._pools
        if pools is None or pools[0] != os.getpid():
            pools = self._pools = (os.getpid(), client.ApiClient(self._configuration).rest_client.pool_manager)
        return pools[1]

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": JSON_TYPE, "User-Agent": USER_AGENT}
        # This call also refreshes a token that is about to expire.
        token = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        return headers

    def _url(self, path: str, query: Mapping[str, str | int] | None) -> str:
        return f"{self.host.rstrip('/')}{path}{'?' + urlencode(query) if query else ''}"

    def _answer(self, status: int, data: bytes, headers: Mapping[str, str], what: str) -> Answer:
        after = headers.get("Retry-After", "")
        retry_after = float(after) if after.isdigit() else None
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if status < 400:
                raise ClusterUnavailable(
                    f"{what}: Kubernetes API {self.host} answered {status} with broken JSON "
                    f"({len(data)} bytes): {error}"
                ) from error
            body = {"message": data[:300].decode(errors="replace").strip() or f"HTTP {status}"}
        if not isinstance(body, dict):
            # An API server answers with objects; anything else comes from another server.
            body = {"message": f"HTTP {status} with a JSON {type(body).__name__}, not an object"}
        return Answer(status=status, body=body, retry_after=retry_after)

    def _no_answer(self, method: str, path: str, error: Exception) -> NoReturn:
        fix = "; check certificate-authority of the kubeconfig" if isinstance(error, SSLError) else ""
        raise ClusterUnavailable(f"{method} {path}: no answer from Kubernetes API {self.host}: {error}{fix}") from error


def _permission_fix(answer: Answer) -> str:
    said, right = "", "that permission"
    if OWNER_CHECKED in answer.message:
        right = "`update` of `finalizers` of the owner's kind"
    elif UNREASONED.search(answer.message):
        resource, group = answer.details.get("kind"), answer.details.get("group") or ""
        said = f'cannot create resource "{resource}" in API group "{group}"'
    return f"{said}; grant the account {right} with a Role and RoleBinding in the namespace"


def _missing_fix(answer: Answer) -> str:
    details = answer.details
    if details.get("kind") == "namespaces":
        settings = "AGENTPLANE_WATCH_NAMESPACES (or AGENTPLANE_INGRESS_NAMESPACE, where the shared Ingress is)"
        return f"create namespace {details.get('name')!r} or correct {settings}"
    if not details.get("name"):
        return "the API server does not serve this kind: install its CustomResourceDefinition"
    return "it does not exist"
