"""The HTTP API: a table of routes, authentication, validation, and answers in the form of the hosted API.

Authentication. A key belongs to one workspace; clients send it as `X-Api-Key` or as a bearer token. A request without
a known key is answered 401. The key determines the workspace, so `X-Tenant-Id` is optional; if it names another
workspace, the answer is 403. Resources of another workspace are answered 404. `GET /ok` and the page for browsers
need no key.

Validation. A request that does not match the models is answered 422 with FastAPI's list of `loc`, `msg`, `type`. The
list omits the values, which may be secrets. All other refusals have the body `{"detail": "..."}`. The `offset` of a
list is where the next page starts.

Filters. `tag_value_ids` and `agent_id` match nothing: deployments of this control plane have no tags and no agent.
Comma-separated filters accept unknown values, because the OpenAPI document declares them as plain strings. Deleting
several deployments is answered 200, 207 when some were not found, 404 when none was found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from sandbox.control_plane import resources as forms
from sandbox.control_plane import rules
from sandbox.control_plane.page import deployment_page, missing_page
from sandbox.control_plane.rules import Refused, not_found
from sandbox.control_plane.store import Condition, Document, Store
from sandbox.langsmith import LangSmith

Model = TypeVar("Model", bound=BaseModel)
UUID_FORM = TypeAdapter(UUID)
PAGE_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the process."""

    keys: Mapping[str, str]
    """API key → workspace id."""
    infer_listener: bool = False
    """Whether a deployment without a listener gets the only one; see `rules`, placement."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One authenticated request; the only argument of a handler."""

    store: Store
    settings: Settings
    workspace: str
    request: Request
    payload: bytes

    def id(self, name: str) -> str:
        """Return a path parameter that must be a UUID, in its canonical form. Raises Refused 422."""
        try:
            return str(UUID_FORM.validate_python(self.request.path_params[name]))
        except ValidationError as problem:
            raise _invalid(problem, "path", name) from None

    def query(self, model: type[Model]) -> Model:
        """Return the query string as `model`. Raises Refused 422."""
        values: dict[str, Any] = {}
        for name in model.model_fields:
            given = self.request.query_params.getlist(name)
            if given and model is forms.BulkDeleteQuery:
                values[name] = given
            elif len(given) > 1:
                raise Refused(422, [{"type": "value_error", "loc": ["query", name], "msg": "is given more than once"}])
            elif given:
                values[name] = given[0]
        try:
            return model.model_validate(values)
        except ValidationError as problem:
            raise _invalid(problem, "query") from None

    def body(self, model: type[Model]) -> Model:
        """Return the JSON body as `model`. Raises Refused 422."""
        media_type = self.request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            message = f"the body must be application/json, not {media_type}"
            raise Refused(422, [{"type": "model_attributes_type", "loc": ["body"], "msg": message}])
        try:
            # Python's parser first: unlike pydantic's, it can refuse numbers that JSON cannot represent (NaN, 1e999).
            json.loads(self.payload, parse_constant=_refuse_number, parse_float=_finite)
        except (ValueError, RecursionError) as problem:
            place = problem.pos if isinstance(problem, json.JSONDecodeError) else 0
            raise Refused(422, [{"type": "json_invalid", "loc": ["body", place], "msg": "JSON decode error"}]) from None
        try:
            return model.model_validate_json(self.payload)
        except ValidationError as problem:
            raise _invalid(problem, "body") from None


Handler = Callable[[Call], Response]


# --- deployments


def list_deployments(call: Call) -> Response:
    query = call.query(forms.DeploymentsQuery)
    where: list[Condition] = [("workspace = ?", [call.workspace])]
    for column in ("name", "image_version", "deployment_type"):
        if (value := getattr(query, column)) is not None:
            where.append((f"{column} = ?", [value]))
    if query.name_contains:
        where.append(("instr(name, ?) > 0", [query.name_contains]))
    where += _listed("status", query.status) + _listed("id", query.deployment_ids)
    if query.remote_reconciled is not None:
        where.append((f"listener_id IS {'NOT ' if query.remote_reconciled else ''}NULL", []))
    if query.tag_value_ids or query.agent_id or query.agent_environment:
        where.append(("0", []))
    return _page(call, "deployments", where, query)


def create_deployment(call: Call) -> Response:
    form = call.body(forms.DeploymentCreate)
    infer = call.settings.infer_listener
    return JSONResponse(rules.create_deployment(call.store, call.workspace, form, infer_listener=infer), 201)


def delete_deployments(call: Call) -> Response:
    deleted, failed = [], []
    for deployment_id in map(str, dict.fromkeys(call.query(forms.BulkDeleteQuery).deployment_ids)):
        try:
            rules.delete_deployment(call.store, call.workspace, deployment_id)
            deleted.append(deployment_id)
        except Refused as refusal:
            failed.append({"deployment_id": deployment_id, "status": refusal.status, "detail": refusal.detail})
    if failed and not deleted:
        raise Refused(404, " ".join(str(failure["detail"]) for failure in failed))
    return JSONResponse({"deleted": deleted, "failed": failed}, 207 if failed else 200)


def get_deployment(call: Call) -> Response:
    return JSONResponse(rules.deployment(call.store, call.workspace, call.id("deployment_id")))


def patch_deployment(call: Call) -> Response:
    deployment_id = call.id("deployment_id")
    return JSONResponse(
        rules.patch_deployment(call.store, call.workspace, deployment_id, call.body(forms.DeploymentPatch))
    )


def delete_deployment(call: Call) -> Response:
    deployment_id = call.id("deployment_id")
    call.query(forms.DeleteQuery)  # validates only: this control plane has no tracing project to delete
    rules.delete_deployment(call.store, call.workspace, deployment_id)
    return Response(status_code=204)


def report_deployment(call: Call) -> Response:
    deployment_id, form = call.id("deployment_id"), call.body(forms.DeploymentReport)
    document = rules.report_deployment(call.store, call.workspace, deployment_id, form)
    return Response(status_code=204) if document is None else JSONResponse(document)


# --- revisions


def list_revisions(call: Call) -> Response:
    deployment_id, query = call.id("deployment_id"), call.query(forms.RevisionsQuery)
    document = rules.deployment(call.store, call.workspace, deployment_id)
    where: list[Condition] = [("deployment_id = ?", [deployment_id]), *_listed("status", query.status)]
    remote = document["source_config"]["listener_id"] is not None
    if query.remote_reconciled not in (None, remote):
        where.append(("0", []))
    return _page(call, "revisions", where, query)


def get_revision(call: Call) -> Response:
    return JSONResponse(_revision(call, call.id("deployment_id"), call.id("revision_id")))


def redeploy_revision(call: Call) -> Response:
    ids = call.id("deployment_id"), call.id("revision_id")
    return JSONResponse(rules.redeploy(call.store, call.workspace, *ids))


def report_revision(call: Call) -> Response:
    ids = call.id("deployment_id"), call.id("revision_id")
    return JSONResponse(rules.report_revision(call.store, call.workspace, *ids, call.body(forms.RevisionReport)))


# --- listeners


def list_listeners(call: Call) -> Response:
    return _page(call, "listeners", [("workspace = ?", [call.workspace])], call.query(forms.Page))


def create_listener(call: Call) -> Response:
    return JSONResponse(rules.create_listener(call.store, call.workspace, call.body(forms.ListenerCreate)), 201)


def get_listener(call: Call) -> Response:
    return JSONResponse(rules.listener(call.store, call.workspace, call.id("listener_id")))


def patch_listener(call: Call) -> Response:
    listener_id = call.id("listener_id")
    return JSONResponse(rules.patch_listener(call.store, call.workspace, listener_id, call.body(forms.ListenerPatch)))


def delete_listener(call: Call) -> Response:
    rules.delete_listener(call.store, call.workspace, call.id("listener_id"))
    return Response(status_code=204)


# --- logs, read by `langgraph deploy logs`


def deploy_logs(call: Call) -> Response:
    """Answer with the data plane's reports as log lines; only one revision's if the path names a revision."""
    deployment_id, form = call.id("deployment_id"), call.body(forms.LogsRequest)
    rules.deployment(call.store, call.workspace, deployment_id)
    where: list[Condition] = [("deployment_id = ?", [deployment_id])]
    if "revision_id" in call.request.path_params:
        where.append(("revision_id = ?", [_revision(call, deployment_id, call.id("revision_id"))["id"]]))
    if form.level:
        where.append(("level = ?", [form.level.upper()]))
    if form.query:
        text = "status || ' ' || coalesce(reason, '') || ' ' || coalesce(message, '')"
        where.append((f"instr(lower({text}), lower(?)) > 0", [form.query]))
    for comparison, moment in (("at >= ?", form.start_time), ("at <= ?", form.end_time)):
        if moment is not None:
            utc = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
            where.append((comparison, [utc.isoformat(timespec="microseconds")]))
    rows = call.store.reports(where, limit=form.limit, newest_first=form.order == "desc")
    return JSONResponse({"logs": [_log_line(row) for row in rows], "next_offset": None})


def build_logs(call: Call) -> Response:
    """Answer with no lines: this control plane builds nothing, deployments come from finished images."""
    _revision(call, call.id("deployment_id"), call.id("revision_id"))
    return JSONResponse({"logs": [], "next_offset": None})


def _log_line(row: Mapping[str, Any]) -> Document:
    subject = f"revision {row['revision_id']}" if row["revision_id"] else "deployment"
    parts = (f"{subject} {row['status']}", row["reason"], row["message"])
    milliseconds = int(datetime.fromisoformat(row["at"]).timestamp() * 1000)
    message = ": ".join(part for part in parts if part)
    return {"id": str(row["seq"]), "timestamp": milliseconds, "level": row["level"], "message": message}


# --- routes that need no key


async def show_deployment(request: Request) -> Response:
    store: Store = request.app.state.store
    workspace, deployment_id = request.path_params["workspace"], request.path_params["deployment_id"]
    document = store.deployment(workspace, deployment_id)
    if document is None:
        return HTMLResponse(missing_page(deployment_id), 404)
    mine: list[Condition] = [("deployment_id = ?", [deployment_id])]
    revisions = [json.loads(text) for text in store.page("revisions", mine, PAGE_ROWS, 0)]
    reports = store.reports(mine, limit=PAGE_ROWS, newest_first=True)
    return HTMLResponse(deployment_page(document, revisions, reports))


async def ok(_request: Request) -> Response:
    return JSONResponse({"ok": True})


DEPLOYMENT = "/v2/deployments/{deployment_id}"
REVISION = DEPLOYMENT + "/revisions/{revision_id}"
PROJECT = "/v1/projects/{deployment_id}"

ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/v2/deployments": {"GET": list_deployments, "POST": create_deployment, "DELETE": delete_deployments},
    DEPLOYMENT: {"GET": get_deployment, "PATCH": patch_deployment, "DELETE": delete_deployment},
    f"{DEPLOYMENT}/status": {"PATCH": report_deployment},
    f"{DEPLOYMENT}/revisions": {"GET": list_revisions},
    REVISION: {"GET": get_revision},
    f"{REVISION}/redeploy": {"POST": redeploy_revision},
    f"{REVISION}/status": {"PATCH": report_revision},
    "/v2/listeners": {"GET": list_listeners, "POST": create_listener},
    "/v2/listeners/{listener_id}": {"GET": get_listener, "PATCH": patch_listener, "DELETE": delete_listener},
    f"{PROJECT}/deploy_logs": {"POST": deploy_logs},
    f"{PROJECT}/revisions/{{revision_id}}/deploy_logs": {"POST": deploy_logs},
    f"{PROJECT}/revisions/{{revision_id}}/build_logs": {"POST": build_logs},
}


def create_app(store: Store, settings: Settings, path: str = "") -> Starlette:
    """Return the ASGI application, with the prefix `path`. Run it in one thread: the store has one connection."""
    routes: list[BaseRoute] = [
        Route(path, _endpoint(by_method), methods=list(by_method)) for path, by_method in ROUTES.items()
    ]
    routes.append(Route("/o/{workspace}/host/deployments/{deployment_id}", show_deployment))
    routes.append(Route("/ok", ok))
    routes.append(Mount("/langsmith", LangSmith(settings.keys).app()))
    app = Starlette(routes=routes, exception_handlers={Refused: _refused, HTTPException: _http_error, 500: _fault})
    app.router.redirect_slashes = False
    app.state.store, app.state.settings = store, settings
    return Starlette(routes=[Mount(path, app)]) if path else app


def _endpoint(by_method: Mapping[str, Handler]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        store: Store = request.app.state.store
        settings: Settings = request.app.state.settings
        workspace = _workspace(request, settings.keys)
        call = Call(store=store, settings=settings, workspace=workspace, request=request, payload=await request.body())
        method = "GET" if request.method == "HEAD" else request.method
        if method == "GET":
            return by_method[method](call)
        with store.transaction():
            return by_method[method](call)

    return endpoint


def _workspace(request: Request, keys: Mapping[str, str]) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    workspace = keys.get(request.headers.get("x-api-key") or bearer)
    if workspace is None:
        raise Refused(401, "The API key is missing or invalid; send a key of this control plane as X-Api-Key.")
    tenant = request.headers.get("x-tenant-id", "")
    if tenant and tenant.lower() != workspace:
        raise Refused(403, f"The API key does not belong to workspace '{tenant[:80]}' (X-Tenant-Id).")
    return workspace


def _page(call: Call, table: str, where: list[Condition], page: forms.Page) -> Response:
    documents = call.store.page(table, where, page.limit, page.offset)
    body = f'{{"resources":[{",".join(documents)}],"offset":{page.offset + len(documents)}}}'
    return Response(body, media_type="application/json")


def _revision(call: Call, deployment_id: str, revision_id: str) -> Document:
    rules.deployment(call.store, call.workspace, deployment_id)
    revision = call.store.revision(deployment_id, revision_id)
    if revision is None:
        raise not_found("Revision", revision_id)
    return revision


def _listed(column: str, text: str | None) -> list[Condition]:
    """Return the condition of a comma-separated filter; none for a blank filter."""
    values = [value.strip() for value in (text or "").split(",") if value.strip()]
    # One parameter with a JSON array, because SQLite limits the number of question marks.
    return [(f"{column} IN (SELECT value FROM json_each(?))", [json.dumps(values)])] if values else []


def _invalid(problem: ValidationError, *where: str) -> Refused:
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    return Refused(422, [{**error, "loc": [*where, *error["loc"]]} for error in errors])


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) != float("inf") else _refuse_number(text)


async def _refused(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refused)
    headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
    return JSONResponse({"detail": refusal.detail}, refusal.status, headers=headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


async def _fault(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"detail": "Internal Server Error"}, 500)
