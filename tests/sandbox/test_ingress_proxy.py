"""The ingress between a real client and small upstream servers; Kubernetes objects are plain dictionaries."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from sandbox.kubelet.informer import Listener
from sandbox.kubelet.ingress import Ingress
from sandbox.kubelet.pod import PORTS_ANNOTATION
from sandbox.kubelet.routes import SOURCES
from sandbox.kubelet.serving import listen, loopback_server
from sandbox.ports import free_port, release

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Copy:
    """Stands in for an informer."""

    items: list[dict[str, Any]] = field(default_factory=list)

    def listen(self, listener: Listener) -> None:
        """Do nothing: the objects of this informer change only through tests."""

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        at = {"namespace": namespace, "name": name}
        return next((item for item in self.items if at.items() <= item["metadata"].items()), None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.items)


SERVICE = {
    "metadata": {"namespace": "agents", "name": "hello"},
    "spec": {"selector": {"app": "hello"}, "ports": [{"name": "api", "port": 80, "targetPort": 8000}]},
}


def ingress_to(service: str, path: str, namespace: str = "agents", port: Any = None) -> dict[str, Any]:
    backend = {"service": {"name": service, "port": port or {"name": "api"}}}
    rule = {"host": "localhost", "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
    return {"kind": "Ingress", "metadata": {"namespace": namespace, "name": service}, "spec": {"rules": [rule]}}


def external(namespace: str, name: str, meant: str, port: int = 80) -> dict[str, Any]:
    """A Service of type ExternalName that names another Service."""
    ports = [{"port": port, "targetPort": port}]
    spec = {"type": "ExternalName", "externalName": meant, "ports": ports}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def pod(name: str, port: int) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "agents",
            "name": name,
            "uid": name,
            "labels": {"app": "hello"},
            "annotations": {PORTS_ANNOTATION: f"api-server/8000={port}"},
        },
        "spec": {"containers": [{"name": "api-server"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


@dataclass
class Cluster:
    """A running ingress, its client and its pods."""

    client: httpx.AsyncClient
    ingress: Ingress
    pods: Copy
    services: Copy
    stack: contextlib.AsyncExitStack

    async def upstream(self, name: str, handler: Handler) -> dict[str, Any]:
        """A pod whose port is served by `handler`."""
        port = free_port()
        self.stack.callback(release, port)
        server = await asyncio.start_server(handler, "127.0.0.1", port)
        self.stack.callback(server.close)
        self.pods.items.append(pod(name, port))
        return self.pods.items[-1]


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    pods, services = Copy(), Copy([SERVICE])
    sources = {path: Copy() for path in SOURCES}
    sources["/apis/networking.k8s.io/v1/ingresses"].items = [
        ingress_to("hello", "/h"),
        ingress_to("absent", "/a"),
        ingress_to("beside", "/e", "edge", {"number": 80}),
    ]
    ingress = Ingress(sources, services, pods)  # type: ignore[arg-type]
    port = free_port()
    server = loopback_server(ingress.app)
    serving = asyncio.create_task(server.serve(sockets=[listen(port)]))
    base = f"http://127.0.0.1:{port}"
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(release, port)
        client = httpx.AsyncClient(base_url=base, headers={"Host": "localhost:80"}, timeout=20, trust_env=False)
        await stack.enter_async_context(client)
        try:
            yield Cluster(client, ingress, pods, services, stack)
        finally:
            server.should_exit = True
            await serving
            await ingress.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the request's first line, headers and body as JSON."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
    answer = json.dumps({"first": first, "headers": headers, "body": len(body)}).encode()
    writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\nX-Pod: yes\r\n\r\n" % len(answer) + answer)
    await writer.drain()
    writer.close()


async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request and close the connection."""
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


def test_requests_and_answers_pass_unchanged() -> None:
    async def scenario() -> None:
        async with cluster() as made:
            await made.upstream("one", echo)
            for size in (10, 3 * 1024 * 1024):
                answer = await made.client.post("/h/%41/runs?x=%20y&z", content=b"x" * size, headers={"X-Api-Key": "k"})
                seen = answer.json()
                assert answer.status_code == 201
                assert answer.headers["x-pod"] == "yes"
                assert seen["first"] == "POST /h/%41/runs?x=%20y&z HTTP/1.1"
                assert seen["body"] == size
                assert seen["headers"]["host"] == "localhost:80"
                assert seen["headers"]["x-api-key"] == "k"
                assert seen["headers"]["x-forwarded-host"] == "localhost:80"

    asyncio.run(scenario())


def test_events_flow_before_the_answer_is_complete() -> None:
    async def scenario() -> None:
        go_on = asyncio.Event()

        async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
            await writer.drain()
            await go_on.wait()
            writer.write(b"data: 2\n\n")
            writer.close()

        async with cluster() as made:
            await made.upstream("one", stream)
            async with made.client.stream("GET", "/h/stream") as answer:
                blocks = answer.aiter_bytes()
                assert await asyncio.wait_for(anext(blocks), 10) == b"data: 1\n\n"
                # The upstream waits until the client has received the first event.
                assert made.ingress.in_flight("one") == 1
                go_on.set()
                assert await asyncio.wait_for(anext(blocks), 10) == b"data: 2\n\n"
            assert made.ingress.in_flight("one") == 0

    asyncio.run(scenario())


def test_another_pod_replaces_an_unreachable_one_for_every_method() -> None:
    async def scenario() -> None:
        async with cluster() as made:
            await made.upstream("alive", echo)
            dead = free_port()
            made.stack.callback(release, dead)
            made.pods.items.append(pod("dead", dead))
            for method in ("GET", "POST") * 10:
                assert (await made.client.request(method, "/h", content=b"body")).status_code == 201

    asyncio.run(scenario())


def test_a_broken_answer_is_retried_only_where_that_is_safe() -> None:
    async def scenario() -> None:
        asked: list[str] = []

        async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append("broken")
            await drop(reader, writer)

        async with cluster() as made:
            await made.upstream("broken", broken)
            refused = await made.client.post("/h", content=b"x")
            assert refused.status_code == 502
            assert "pod broken closed the connection" in refused.text
            assert len(asked) == 1
            await made.upstream("alive", echo)
            for _ in range(10):
                assert (await made.client.get("/h")).status_code == 201

    asyncio.run(scenario())


def test_a_pod_that_is_being_deleted_gets_no_request() -> None:
    async def scenario() -> None:
        async with cluster() as made:
            leaving = await made.upstream("leaving", drop)
            leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            await made.upstream("staying", echo)
            for _ in range(10):
                assert (await made.client.post("/h")).status_code == 201

    asyncio.run(scenario())


def test_a_request_waits_a_moment_for_the_first_ready_pod() -> None:
    async def scenario() -> None:
        async with cluster() as made:
            asking = asyncio.create_task(made.client.get("/h"))
            await asyncio.sleep(0.3)
            assert not asking.done()
            await made.upstream("late", echo)
            assert (await asking).status_code == 201

    asyncio.run(scenario())


def test_an_external_name_forwards_to_a_service_of_another_namespace() -> None:
    async def scenario() -> None:
        async with cluster() as made:
            made.services.items.append(external("edge", "beside", "hello.agents.svc.cluster.local"))
            await made.upstream("one", echo)
            answer = await made.client.get("/e/info")
            assert answer.json()["first"] == "GET /e/info HTTP/1.1"

    asyncio.run(scenario())


def test_a_circle_of_external_names_is_reported() -> None:
    async def scenario() -> None:
        async with cluster() as made:
            made.services.items.append(external("edge", "beside", "beside.edge.svc.cluster.local"))
            refused = await made.client.get("/e")
            assert refused.status_code == 503
            assert "service edge/beside" in refused.text
            assert "a chain of more than 3 ExternalName Services" in refused.text

    asyncio.run(scenario())


def test_every_request_is_on_record_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with cluster() as made:
            await made.upstream("one", echo)
            await made.client.get("/h/ok?key=secret")
            await made.client.get("/elsewhere")

    with caplog.at_level("INFO", logger="sandbox.kubelet.access"):
        asyncio.run(scenario())
    told = [record.getMessage() for record in caplog.records if record.name == "sandbox.kubelet.access"]
    assert told == [
        "GET http://localhost:80/h/ok: 201, Ingress agents/hello, pod one",
        "GET http://localhost:80/elsewhere: 404, no route",
    ]


def test_refusals_say_what_is_missing() -> None:
    async def scenario() -> None:
        async with cluster() as made:
            nowhere, nobody, absent = await asyncio.gather(
                made.client.get("/elsewhere"), made.client.get("/h"), made.client.get("/a/x")
            )
            assert nowhere.status_code == 404
            assert "no Ingress" in nowhere.text
            assert nobody.status_code == 503
            assert "service agents/hello has no ready pod" in nobody.text
            assert absent.status_code == 503
            assert "Ingress agents/absent: service agents/absent does not exist" in absent.text

    asyncio.run(scenario())
