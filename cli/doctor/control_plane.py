"""Checks of the control plane (URL, key, workspace, listener) and of the LangSmith API."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx

from cli.doctor.finding import Finding, fail, ok, warn
from engine import bootstrap
from engine.control_plane.client import HttpControlPlane
from engine.control_plane.network_policy import may_forbid
from engine.errors import ControlPlaneError, ControlPlaneNotFound, ControlPlaneUnavailable
from engine.listener.handshake import namespace_mismatch, unknown_listener
from engine.settings import REGIONS, Settings, variable

PATIENCE = 5.0
"""How long the LangSmith API has to answer, in seconds."""

LISTENERS_OFF = (
    "a self-hosted LangSmith serves listeners only where they are switched on: enable_lgp_listeners_page for the "
    "organization and langgraph_remote_reconciler_enabled for the workspace, each true in the column `config` of its "
    "row in LangSmith's Postgres (tables organizations and tenants)"
)


def check_control_plane(settings: Settings) -> Iterator[Finding]:
    """Yield whether the control plane accepts the key and the workspace, and has our listener for our namespaces."""
    if not settings.listener_enabled:
        return
    control_plane = HttpControlPlane.from_settings(settings)
    try:
        first = next(iter(control_plane.deployments()), [])
        url, count = settings.host_backend_url, f"{len(first)} deployment{'' if len(first) == 1 else 's'}"
        yield ok("control plane", f"{url} accepts the key and the workspace ({count} on the first page)")
        yield _listener(control_plane, settings)
    finally:
        control_plane.close()


def _listener(control_plane: HttpControlPlane, settings: Settings) -> Finding:
    """Return whether the control plane has our listener, for our namespaces. Raises ControlPlaneUnavailable."""
    config = bootstrap.listener_config(settings)
    hosted = settings.host_backend_url in {host for host, _ in REGIONS.values()}
    fix = "" if hosted else LISTENERS_OFF
    try:
        listener = control_plane.listener(config.listener_id)
    except ControlPlaneNotFound:
        return fail("listener", unknown_listener(config), fix)
    except ControlPlaneUnavailable:
        raise
    except ControlPlaneError as error:
        return fail("listener", str(error), fix)
    problem = namespace_mismatch(listener, config)
    if problem is not None:
        return fail("listener", problem)
    namespaces = ", ".join(settings.watch_namespaces)
    return ok("listener", f"the control plane has listener {config.listener_id}, for namespaces {namespaces}")


def check_smith(settings: Settings) -> Iterator[Finding]:
    """Yield whether the LangSmith API answers: Agent Servers send traces there, and authorize their callers there."""
    if not settings.listener_enabled:
        return
    url = f"{settings.smith_backend_url}/info"
    problem = _not_langsmith(url, settings)
    if problem:
        yield warn(
            "langsmith",
            f"{url}: {problem}",
            f"correct {variable('smith_backend_url')}, or allow connections to it: Agent Servers send traces there, "
            "and authorize their callers there",
        )
    else:
        yield ok("langsmith", f"{settings.smith_backend_url} answers")


def _not_langsmith(url: str, settings: Settings) -> str:
    """Return why no LangSmith API answers at `url`; empty when one does."""
    ca_file = settings.control_plane_ca_file
    try:
        verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
        answer = httpx.get(url, verify=verify, timeout=PATIENCE)
        known = answer.status_code == 200 and isinstance(answer.json(), dict)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        forbidden = may_forbid(error, settings.network_policy, "networkPolicy.extraPorts")
        return f"no answer: {str(error) or type(error).__name__}{forbidden}"
    except ValueError:
        known = False
    return "" if known else f"HTTP {answer.status_code}, which is not the answer of a LangSmith API"
