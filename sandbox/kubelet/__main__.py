"""`python -m sandbox.kubelet`: the node of the sandbox in the foreground.

It prints `ready` on stderr when the ingress serves and all lists from the API server are complete. SIGTERM and SIGINT
end it and every process that it started, in less than three seconds. The Pods stay in the API, and the next run of this
program starts their containers again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx

from sandbox.kubelet.api import CORE, Api
from sandbox.kubelet.events import EventRecorder
from sandbox.kubelet.informer import Informer
from sandbox.kubelet.ingress import Ingress
from sandbox.kubelet.kubelet import Kubelet
from sandbox.kubelet.logs import log_app
from sandbox.kubelet.node import Node, Timing, keep_registered
from sandbox.kubelet.routes import SOURCES
from sandbox.kubelet.runtime import Runtime
from sandbox.kubelet.serving import listen, loopback_server, self_signed
from sandbox.ports import LOOPBACK, free_port

log = logging.getLogger("sandbox.kubelet")

# Seconds between SIGTERM and SIGKILL for containers when the node itself ends.
GRACE_AT_END = 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.ingress_tls_port) != bool(options.ingress_certificate):
        parser.error("--ingress-tls-port and --ingress-certificate need each other: give both or none")
    logging.basicConfig(
        level=options.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(_run(options))
    except (OSError, ValueError) as error:
        print(f"kubelet: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: argparse.Namespace) -> None:
    options.state.mkdir(parents=True, exist_ok=True)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    logs_port, kubelet_port = options.log_port or free_port(), options.kubelet_port or free_port()
    sockets = [listen(port) for port in (options.ingress_port, logs_port, kubelet_port)]
    async with Api(options.kubeconfig) as api, httpx.AsyncClient(
        verify=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
    ) as probe_client:  # fmt: skip
        pods = Informer(api, f"{CORE}/pods")
        services = Informer(api, f"{CORE}/services")
        routes = {path: Informer(api, path, optional=not always) for path, (_, always) in SOURCES.items()}
        ingress = Ingress(routes, services, pods)
        runtime = Runtime(options.state)
        events = EventRecorder(api, options.node_name)
        node = Node(
            name=options.node_name,
            api=api,
            kubeconfig=options.kubeconfig,
            runtime=runtime,
            events=events,
            http=probe_client,
            images=options.images.absolute(),
            timing=Timing(
                backoff=options.backoff_seconds,
                probe_cap=options.probe_period_cap,
                drain=options.drain_seconds,
            ),
            logs_url=f"http://{LOOPBACK}:{logs_port}",
            in_flight=ingress.in_flight,
        )
        kubelet = Kubelet(node, pods)
        logs = log_app(kubelet, runtime)
        certificate = self_signed(options.state / "kubelet.pem")
        servers = [loopback_server(ingress.app), loopback_server(logs), loopback_server(logs, certificate)]
        if options.ingress_tls_port:
            sockets.append(listen(options.ingress_tls_port))
            servers.append(loopback_server(ingress.app, options.ingress_certificate))
        informers = [pods, services, *routes.values()]
        work: list[Coroutine[Any, Any, Any]] = [
            *(server.serve(sockets=[listener]) for server, listener in zip(servers, sockets, strict=True)),
            *(informer.run() for informer in informers),
            events.run(),
            keep_registered(api, options.node_name, kubelet_port),
        ]
        tasks = [asyncio.create_task(one) for one in work]
        announcing = asyncio.create_task(_announce(informers, options))
        ending = asyncio.create_task(ended.wait())
        try:
            done, _ = await asyncio.wait([*tasks, ending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            announcing.cancel()
            for server in servers:
                server.should_exit = True
            await kubelet.close()
            await runtime.close(GRACE_AT_END)
            for task in tasks[len(servers) :]:
                task.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1)
            await ingress.close()
        for task in done - {ending}:
            task.result()  # raises: these tasks end only by an error


async def _announce(informers: Sequence[Informer], options: argparse.Namespace) -> None:
    for informer in informers:
        await informer.synced.wait()
    print(f"ready: ingress on http://localhost:{options.ingress_port}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.kubelet", description="Runs Pods as local processes and serves the ingress."
    )
    parser.add_argument("--kubeconfig", type=Path, required=True, help="kubeconfig of the API server")
    parser.add_argument("--ingress-port", type=int, required=True, help="HTTP port of the ingress on 127.0.0.1")
    parser.add_argument("--ingress-tls-port", type=int, default=0, help="HTTPS port of the ingress (default: none)")
    parser.add_argument("--ingress-certificate", type=Path, help="PEM file with key and certificate for HTTPS")
    parser.add_argument("--images", type=Path, required=True, help="folder that holds one folder per image")
    parser.add_argument("--state", type=Path, required=True, help="folder for containers, volumes and logs")
    parser.add_argument("--node-name", default="sandbox", help="name of the Node object (default: sandbox)")
    parser.add_argument("--log-port", type=int, default=0, help="port of the log endpoint (default: a free one)")
    parser.add_argument(
        "--kubelet-port", type=int, default=0, help="port for `kubectl logs` over TLS (default: a free one)"
    )
    parser.add_argument(
        "--backoff-seconds",
        type=float,
        default=2.0,
        help="first restart back-off; it doubles, up to 30 times this value (default: 2)",
    )
    parser.add_argument(
        "--probe-period-cap",
        type=float,
        default=0.5,
        help="longest period of a probe before its first success, in seconds (default: 0.5)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=0.5,
        help="time between the end of new requests to a pod and its SIGTERM (default: 0.5)",
    )
    parser.add_argument("--log-level", default="info", help="debug, info, warning or error (default: info)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
