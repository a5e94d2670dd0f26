"""A thin client for the cases: it derives paths from resource names, and returns plain dictionaries.

`api.create(…)` and similar methods require success and return the object. `api.send(…)` returns any response;
`refused(response, code, reason)` checks the `Status` body of a refusal and returns it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
import orjson

from tests.support.eventually import eventually

Object = dict[str, Any]
Names = list[str]
T = TypeVar("T")

GROUPS = {
    "/apis/apps/v1": "deployments replicasets statefulsets",
    "/apis/networking.k8s.io/v1": "ingresses",
    "/apis/apiextensions.k8s.io/v1": "customresourcedefinitions",
    "/apis/coordination.k8s.io/v1": "leases",
    "/apis/example.dev/v1": "widgets",
}
GROUP_OF = {plural: group for group, plurals in GROUPS.items() for plural in plurals.split()}
CLUSTER_SCOPED = {"namespaces", "customresourcedefinitions"}

PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Api:
    """Requests to one API server, in one namespace unless a call names another ("" means all namespaces)."""

    def __init__(self, http: httpx.Client, namespace: str) -> None:
        self.http = http
        self.namespace = namespace

    def path(
        self, resource: str, name: str | None = None, sub: str | None = None, *, namespace: str | None = None
    ) -> str:
        namespace = self.namespace if namespace is None else namespace
        inside = "" if resource in CLUSTER_SCOPED or not namespace else f"/namespaces/{namespace}"
        parts = [GROUP_OF.get(resource, "/api/v1") + inside, resource, name, sub]
        return "/".join(part for part in parts if part)

    def send(
        self,
        method: str,
        resource: str,
        name: str | None = None,
        body: Any = None,
        *,
        sub: str | None = None,
        namespace: str | None = None,
        type: str = "application/json",
        accept: str = "application/json",
        **params: Any,
    ) -> httpx.Response:
        """Send a request and return the response; `body` is sent as JSON, unless it is bytes."""
        content = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        headers = {"Accept": accept, **({"Content-Type": type} if content is not None else {})}
        path = self.path(resource, name, sub, namespace=namespace)
        return self.http.request(method, path, content=content, headers=headers, params=_query(params))

    def get(self, resource: str, name: str, **options: Any) -> Object:
        return succeeded(self.send("GET", resource, name, **options))

    def find(self, resource: str, name: str, **options: Any) -> Object | None:
        """Return the object, or None when there is none."""
        response = self.send("GET", resource, name, **options)
        return None if response.status_code == 404 else succeeded(response)

    def list(self, resource: str, **options: Any) -> Object:
        return succeeded(self.send("GET", resource, **options))

    def names(self, resource: str, **options: Any) -> Names:
        return [item["metadata"]["name"] for item in self.list(resource, **options)["items"]]

    def create(self, resource: str, obj: Object, **options: Any) -> Object:
        return succeeded(self.send("POST", resource, body=obj, **options))

    def update(self, resource: str, obj: Object, **options: Any) -> Object:
        return succeeded(self.send("PUT", resource, obj["metadata"]["name"], obj, **options))

    def patch(self, resource: str, name: str, patch: Any, kind: str = "merge", **options: Any) -> Object:
        return succeeded(self.send("PATCH", resource, name, patch, type=PATCHES[kind], **options))

    def try_apply(self, resource: str, obj: Object, manager: str = "tester", **options: Any) -> httpx.Response:
        name = obj["metadata"]["name"]
        return self.send("PATCH", resource, name, obj, type=PATCHES["apply"], fieldManager=manager, **options)

    def apply(self, resource: str, obj: Object, manager: str = "tester", **options: Any) -> Object:
        """Apply an object by server-side apply; `force=True` takes fields from other managers."""
        return succeeded(self.try_apply(resource, obj, manager, **options))

    def delete(
        self, resource: str, name: str, propagation: str | None = None, grace: int | None = None, **options: Any
    ) -> Object:
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if propagation:
            body["propagationPolicy"] = propagation
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        return succeeded(self.send("DELETE", resource, name, body, **options))

    @contextlib.contextmanager
    def watch(self, resource: str, *, seconds: float = 20, **options: Any) -> Iterator[Iterator[Object]]:
        """Yield the events of a watch. Raises httpx.ReadTimeout when none arrives for `seconds`."""
        namespace = options.pop("namespace", None)
        path = self.path(resource, namespace=namespace)
        params = _query({"watch": True, **options})
        with self.http.stream("GET", path, params=params, timeout=httpx.Timeout(30, read=seconds)) as response:
            if response.status_code != 200:
                response.read()
                succeeded(response)
            yield (json.loads(line) for line in response.iter_lines() if line.strip())


def _query(params: dict[str, Any]) -> dict[str, str]:
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in params.items()
        if value is not None
    }


def succeeded(response: httpx.Response) -> Object:
    """Check that a response is a success; return its body."""
    assert response.is_success, f"{response.request.method} {response.url}: {response.text}"
    body: Object = response.json()
    return body


def refused(response: httpx.Response, code: int, reason: str) -> Object:
    """Check that a response is this refusal; return its `Status` body."""
    assert response.status_code == code, f"{response.status_code} instead of {code}: {response.text}"
    status: Object = response.json()
    assert status["kind"] == "Status"
    assert status["apiVersion"] == "v1"
    assert status["status"] == "Failure"
    assert status["code"] == code
    assert status["reason"] == reason, status
    assert status["message"]
    return status


def causes(status: Object) -> set[tuple[str, str]]:
    """Return (field, reason) of every cause of a 422."""
    return {(cause["field"], cause["reason"]) for cause in status["details"]["causes"]}


def version(obj: Object) -> str:
    found: str = obj["metadata"]["resourceVersion"]
    return found


def generation(obj: Object) -> int:
    found: int = obj["metadata"]["generation"]
    return found


def install_definition(api: Api, crd: Object) -> Object:
    """Create a CustomResourceDefinition unless it exists, and wait until the server serves its resources."""
    name = crd["metadata"]["name"]
    if api.find("customresourcedefinitions", name) is None:
        api.create("customresourcedefinitions", crd)

    def established() -> Object | None:
        found = api.get("customresourcedefinitions", name)
        conditions = {item["type"]: item["status"] for item in found.get("status", {}).get("conditions") or []}
        return found if conditions.get("Established") == "True" else None

    found: Object = eventually(established, f"{name} is established")
    spec = crd["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    eventually(lambda: api.http.get(path).is_success, f"{path} is served")
    return found
