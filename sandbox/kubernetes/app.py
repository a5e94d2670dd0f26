"""HTTP: one ASGI application that maps each request to a verb of the registry. The shape of the path is the route.

/api/v1/…, /apis/{group}/{version}/…   [namespaces/{ns}/]{plural}[/{name}[/{subresource}]]
all other paths                         discovery, health, OpenAPI (a table of documents)
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
import yaml

from sandbox.kubernetes import discovery, negotiation, protobuf, status, subresources
from sandbox.kubernetes.kinds import Kind
from sandbox.kubernetes.listing import Listing, as_stored
from sandbox.kubernetes.registry import Registry, Request, is_removable
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.store import Object
from sandbox.kubernetes.streaming import stream_log, stream_watch
from sandbox.kubernetes.strictness import repeated_in_json, repeated_in_yaml

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = "application/json"
_PATCH_FORMS = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
    "application/apply-patch+cbor": "",
}
_BODY_TYPES = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")


class _Loader(yaml.CSafeLoader):
    """A YAML loader that reads dates as text, as Kubernetes does."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _yaml(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)  # JSON is YAML, most clients send JSON, and this parser is twenty times faster
    except orjson.JSONDecodeError:
        return yaml.load(raw, _Loader)


class Call:
    """One HTTP request, and the methods that answer it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[str, str] = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.query: dict[str, str] = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
        self.accept = self.headers.get("accept", "")
        self.receive = receive
        self.send = send
        self.started = False
        self.warnings: list[str] = []
        self.repeated: list[str] = []
        """Messages about fields that the body has twice."""

    def flag(self, name: str) -> bool:
        """Whether a query parameter is true; an empty value counts as true."""
        return self.query.get(name, "") in ("true", "1", "") if name in self.query else False

    @cached_property
    def form(self) -> str:
        """The form of the answer, a constant of `negotiation`. Raises ApiError 406."""
        return negotiation.answer_form(self.accept)

    @property
    def as_table(self) -> bool:
        return self.form == negotiation.TABLE

    @property
    def as_metadata(self) -> bool:
        return self.form in (negotiation.PARTIAL, negotiation.PARTIAL_LIST)

    async def body(self) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            chunks.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(chunks)

    async def document(self, optional: bool = False) -> Any:
        """Return the parsed body: JSON, YAML or protobuf, by its content type. Raises ApiError 400, 415."""
        raw = await self.body()
        media = self.headers.get("content-type", JSON).partition(";")[0].strip()
        if not raw:
            if optional:
                return {}
            raise status.bad_request("the body of the request is empty")
        if media == protobuf.MEDIA_TYPE:
            return protobuf.decode(raw)
        try:
            if media.endswith("json"):
                document = orjson.loads(raw)
                self.repeated = repeated_in_json(raw) if self.query.get("fieldValidation") != "Ignore" else []
                return document
            if media.endswith("yaml"):
                document = _yaml(raw)
                self.repeated = repeated_in_yaml(raw) if self.query.get("fieldValidation") != "Ignore" else []
                return document
        except (orjson.JSONDecodeError, yaml.YAMLError) as error:
            raise status.bad_request(f"couldn't get version/kind; json parse error: {error}") from error
        raise status.unsupported_media_type(media, _BODY_TYPES)

    async def start(self, code: int = 200, content_type: str = JSON, length: int | None = None) -> None:
        headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-cache, private")]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        for warning in self.warnings:
            escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
            headers.append((b"warning", f'299 - "{escaped}"'.encode()))
        self.started = True
        await self.send({"type": "http.response.start", "status": code, "headers": headers})

    async def chunk(self, body: bytes, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def reply(self, body: bytes, code: int = 200, content_type: str = JSON) -> None:
        await self.start(code, content_type, len(body))
        await self.chunk(body, more=False)

    async def json(self, body: Any, code: int = 200) -> None:
        await self.reply(orjson.dumps(body), code)


class App:
    """The API server as an ASGI application. With an empty `token`, clients need no token."""

    def __init__(self, registry: Registry, token: str = "", address: str = "127.0.0.1") -> None:
        self.registry = registry
        self.address = address
        self._expected = f"Bearer {token}" if token else ""
        self._listing = Listing(registry)
        self.stopping = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        call = Call(scope, receive, send)
        try:
            await self._serve(call)
        except ApiError as error:
            await call.json(error.body(), error.code)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s failed", call.method, call.path)
            if not call.started:
                words = "an error on the server has prevented the request from succeeding; see the server's log"
                await call.json(ApiError(500, "InternalError", words).body(), 500)

    async def _serve(self, call: Call) -> None:
        parts = [unquote(part) for part in call.path.split("/") if part]
        if parts and parts[0] in ("healthz", "livez", "readyz"):
            await call.reply(b"ok", content_type="text/plain; charset=utf-8")
            return
        if self._expected and not hmac.compare_digest(call.headers.get("authorization", ""), self._expected):
            raise status.unauthorized()
        prefix = {"api": 2, "apis": 3}.get(parts[0] if parts else "", 99)
        if len(parts) <= prefix:
            await self._document(call, parts)
            return
        group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])
        namespace, plural, name, subresource = _split(parts[prefix:])
        if any(row[:3] == (group, version, plural) for row in discovery.REVIEWS) and call.method == "POST":
            await call.json(subresources.review(await call.document()), 201)
            return
        kind = self.registry.kinds.served(group, version, plural)
        if kind is None or (namespace and not kind.namespaced) or subresource is None:
            raise status.no_such_path()
        if kind.deprecation:
            call.warnings.append(kind.deprecation)
        if subresource:
            await self._subresource(call, kind, namespace, name, subresource)
        elif name:
            await self._one(call, kind, namespace, name)
        else:
            await self._many(call, kind, namespace)

    # documents

    async def _document(self, call: Call, parts: list[str]) -> None:
        kinds = self.registry.kinds
        found: Object | None = None
        match parts:
            case ["version"]:
                found = discovery.VERSION
            case ["api"]:
                found = discovery.core(kinds, self.address)
            case ["apis"]:
                found = discovery.groups(kinds)
            case ["api", version]:
                found = discovery.resources(kinds, "", version)
            case ["apis", name]:
                entry = discovery.group(kinds, name)
                found = {"kind": "APIGroup", "apiVersion": "v1", **entry} if entry else None
            case ["apis", name, version]:
                found = discovery.resources(kinds, name, version)
            case ["openapi", "v2"]:
                found = discovery.openapi_v2(kinds)
            case ["openapi", "v3"]:
                found = discovery.openapi_v3_index(kinds)
            case ["openapi", "v3", *place]:
                found = discovery.openapi_v3(kinds, "/".join(place))
            case []:
                found = {"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3",
                                   "/readyz", "/version"]}  # fmt: skip
        if found is None:
            raise status.no_such_path()
        if call.method != "GET":
            raise status.method_not_allowed()
        await call.json(found)

    # objects

    async def _many(self, call: Call, kind: Kind, namespace: str) -> None:
        if call.method == "GET":
            negotiation.check_list_options(call.query)
            if call.flag("watch"):
                await stream_watch(call, self.registry, kind, namespace, self.stopping)
            else:
                negotiation.check_form(call.form, kind.kind, of_list=True)
                await call.reply(self._listing.page(kind, namespace, call.query, call.as_table, call.as_metadata))
        elif call.method == "POST":
            await self._create(call, kind, namespace)
        elif call.method == "DELETE":
            options = _delete_options(call, await call.document(optional=True))
            call.query.pop("limit", None)
            body = self._listing.page(kind, namespace, call.query, False, False)
            selectors = (call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""))
            for stored in self.registry.select(kind, namespace, *selectors):
                self.registry.delete(kind, stored.namespace, stored.name, **options)
            await call.reply(body)
        else:
            raise status.method_not_allowed()

    async def _create(self, call: Call, kind: Kind, namespace: str) -> None:
        if kind.namespaced and not namespace:
            raise status.method_not_allowed()
        obj = _object(await call.document(), kind)
        metadata = obj.setdefault("metadata", {}) or {}
        obj["metadata"] = metadata
        if kind.namespaced:
            if metadata.get("namespace") not in (None, "", namespace):
                words = "the namespace of the provided object does not match the namespace sent on the request"
                raise status.bad_request(words)
            metadata["namespace"] = namespace
        request = _request(call)
        created = self.registry.create(kind, obj, request=request)
        call.warnings += request.warnings
        await self._show(call, kind, created, 201)

    async def _one(self, call: Call, kind: Kind, namespace: str, name: str) -> None:
        registry = self.registry
        if kind.namespaced and not namespace:
            raise status.no_such_path()
        if call.method == "GET":
            stored = registry.found(kind, namespace, name)
            if call.as_table or call.as_metadata or not as_stored(kind, stored):
                await self._show(call, kind, stored.copy())
            else:
                await call.reply(stored.raw)
        elif call.method == "PUT":
            await self._replace(call, kind, namespace, name, "")
        elif call.method == "PATCH":
            await self._patch(call, kind, namespace, name, "")
        elif call.method == "DELETE":
            options = _delete_options(call, await call.document(optional=True))
            last = registry.delete(kind, namespace, name, **options)
            gone = registry.store.get(kind.resource, namespace, name) is None or (
                options["dry_run"] and is_removable(last["metadata"])
            )
            if gone and kind.resource not in ("pods", "services", "serviceaccounts", "persistentvolumeclaims"):
                await call.json(_deleted(kind, last))
            else:
                await self._show(call, kind, last)
        else:
            raise status.method_not_allowed()

    async def _replace(self, call: Call, kind: Kind, namespace: str, name: str, subresource: str) -> None:
        obj = _object(await call.document(), kind)
        metadata = obj.get("metadata") or {}
        obj["metadata"] = metadata
        if metadata.get("name") not in (None, "", name):
            words = f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            raise status.bad_request(words)
        if kind.namespaced and metadata.get("namespace") not in (None, "", namespace):
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        metadata.update({"name": name, **({"namespace": namespace} if kind.namespaced else {})})
        request = _request(call)
        updated = self.registry.update(kind, obj, subresource=subresource, request=request)
        call.warnings += request.warnings
        await self._show(call, kind, updated)

    async def _patch(self, call: Call, kind: Kind, namespace: str, name: str, subresource: str) -> None:
        media = call.headers.get("content-type", "").partition(";")[0].strip()
        form = _PATCH_FORMS.get(media, "")
        if not form:
            raise status.unsupported_media_type(media, [known for known, form in _PATCH_FORMS.items() if form])
        request = _request(call)
        if form == "apply" and not call.query.get("fieldManager"):
            words = 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
            raise ApiError(422, "Invalid", words)
        if form != "apply" and "force" in call.query:
            words = 'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch'
            raise ApiError(422, "Invalid", words)
        patch = await call.document()
        request.repeated = call.repeated
        if form == "apply" and call.repeated and request.field_validation == "Strict":
            lines = "\n  ".join(["yaml: unmarshal errors:", *call.repeated])
            raise status.bad_request(f"error strict decoding YAML: error converting YAML to JSON: {lines}")
        changed, created = self.registry.patch(
            kind, namespace, name, patch, form, subresource=subresource, request=request
        )
        call.warnings += request.warnings
        await self._show(call, kind, changed, 201 if created else 200)

    async def _show(self, call: Call, kind: Kind, obj: Object, code: int = 200) -> None:
        negotiation.check_form(call.form, kind.kind, of_list=False)
        await call.reply(self._listing.one(kind, obj, call.query, call.as_table, call.as_metadata), code)

    # subresources

    async def _subresource(self, call: Call, kind: Kind, namespace: str, name: str, subresource: str) -> None:
        registry = self.registry
        match subresource, call.method:
            case "status", "GET" if kind.status:
                await self._show(call, kind, registry.get(kind, namespace, name))
            case "status", "PUT" if kind.status:
                await self._replace(call, kind, namespace, name, "status")
            case "status", "PATCH" if kind.status:
                await self._patch(call, kind, namespace, name, "status")
            case "scale", "GET" if kind.scale:
                await call.json(subresources.scale_of(kind, registry.get(kind, namespace, name)))
            case "scale", "PUT" | "PATCH" if kind.scale:
                form = _PATCH_FORMS.get(call.headers.get("content-type", "").partition(";")[0], "")
                body, request = await call.document(), _request(call)
                changed = subresources.rescale(
                    registry, kind, namespace, name, body, form if call.method == "PATCH" else "put", request
                )
                await call.json(changed)
            case "log", "GET" if kind.resource == "pods":
                await stream_log(call, registry.get(kind, namespace, name))
            case "binding", "POST" if kind.resource == "pods":
                await call.json(subresources.bind(registry, namespace, name, await call.document()), 201)
            case "eviction", "POST" if kind.resource == "pods":
                options = _delete_options(call, (await call.document()).get("deleteOptions") or {})
                registry.delete(kind, namespace, name, **options)
                await call.json(subresources.SUCCESS, 201)
            case "finalize", "PUT" if kind.resource == "namespaces":
                body = await call.document()
                await call.json(subresources.finalize(registry, name, body))
            case _:
                raise status.no_such_path()


def _split(parts: list[str]) -> tuple[str, str, str, str | None]:
    """Return (namespace, plural, name, subresource); the subresource is None for a path that does not exist."""
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = (*parts, "", "")[:3]
    return namespace, plural, name, None if len(parts) > 3 else subresource


def _object(document: Any, kind: Kind) -> Object:
    if not isinstance(document, dict):
        raise status.bad_request(f"the body of the request must be one {kind.kind} object")
    if not isinstance(document.get("metadata") or {}, dict):
        raise status.bad_request("metadata must be an object")
    return document


def _request(call: Call) -> Request:
    query = call.query
    if query.get("dryRun", "All") != "All":
        words = f'PatchOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: "{query["dryRun"]}"'
        raise ApiError(422, "Invalid", words + ': supported values: "All"')
    agent = call.headers.get("user-agent", "").partition("/")[0][:128]
    manager = query.get("fieldManager", "")
    if len(manager) > 128 or not manager.isprintable():
        why = (
            "Too long: must have at most 128 bytes"
            if len(manager) > 128
            else "should only contain printable characters"
        )
        raise ApiError(422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Invalid value: {why}')
    strict = query.get("fieldValidation") or "Warn"
    if strict not in ("Ignore", "Strict", "Warn"):
        options = {"POST": "CreateOptions", "PUT": "UpdateOptions"}.get(call.method, "PatchOptions")
        raise status.unsupported_option(options, "fieldValidation", strict, ("", "Ignore", "Strict", "Warn"))
    return Request(
        manager=manager or agent or "unknown",
        dry_run="dryRun" in query,
        field_validation=strict,
        repeated=call.repeated,
        force=call.flag("force"),
    )


def _delete_options(call: Call, body: Any) -> dict[str, Any]:
    """Return the keyword arguments of Registry.delete; the body overrides the query."""
    body = body if isinstance(body, dict) else {}
    query = call.query
    preconditions = body.get("preconditions") or {}
    orphan = body.get("orphanDependents", {"true": True, "false": False}.get(query.get("orphanDependents", "")))
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    if not propagation and orphan is not None:
        propagation = "Orphan" if orphan else "Background"
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    return {
        "propagation": propagation,
        "grace": None if grace is None else int(grace),
        "uid": preconditions.get("uid", ""),
        "version": preconditions.get("resourceVersion", ""),
        "dry_run": "dryRun" in query or bool(body.get("dryRun")),
    }


def _deleted(kind: Kind, last: Object) -> Object:
    details = {
        "name": last["metadata"]["name"],
        "group": kind.group,
        "kind": kind.plural,
        "uid": last["metadata"]["uid"],
    }
    details = {name: value for name, value in details.items() if value}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
