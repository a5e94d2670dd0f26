"""The handshake of a data plane with the control plane: its listener and our settings must fit. Once per process."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from engine.dataplane.events import ListenerPublished, ListenerRefused
from engine.errors import ControlPlaneDenied, ControlPlaneNotFound
from engine.event import Json
from engine.listener.config import ListenerConfig
from engine.listener.poll_context import PollContext
from engine.ports import ControlPlane

log = structlog.get_logger(__name__)


def handshake(context: PollContext, version: str) -> bool:
    """Check that the control plane's listener and our settings fit; publish our `version`. Return whether they fit.

    Raises ControlPlaneError.
    """
    if context.memory.handshake_done:
        return True
    refusal = configuration_mismatch(context.control_plane, context.config)
    if refusal is not None:
        if context.own.known.refusal != refusal:
            log.error("listener refused", reason=refusal)
            context.record(ListenerRefused(reason=refusal))
        return False
    try:
        context.control_plane.publish_version(context.config.listener_id, version)
    except ControlPlaneDenied as error:
        log.warning("the control plane does not let us publish our version", reason=str(error))
    if context.own.known.refusal is not None or context.own.known.published != version:
        context.record(ListenerPublished(version=version))
    context.memory.handshake_done = True
    return True


def configuration_mismatch(control_plane: ControlPlane, config: ListenerConfig) -> str | None:
    """Return why the control plane's listener and our settings do not fit; None when they do.

    Raises ControlPlaneUnavailable where there is no control plane.
    """
    try:
        listener = control_plane.listener(config.listener_id)
    except ControlPlaneNotFound:
        # A URL that leads elsewhere answers 404 as well. But then there is no list either, and its error says so.
        next(iter(control_plane.deployments()), None)
        return unknown_listener(config)
    return namespace_mismatch(listener, config)


def unknown_listener(config: ListenerConfig) -> str:
    """Return the message for a listener that the control plane does not have."""
    return (
        f"the control plane knows no listener {config.listener_id} in workspace {config.workspace_id}; create it "
        "there, or correct AGENTPLANE_LISTENER_ID or AGENTPLANE_WORKSPACE_ID"
    )


def namespace_mismatch(listener: Mapping[str, Json], config: ListenerConfig) -> str | None:
    """Return how the namespaces of the control plane's listener and our settings differ; None when they do not."""
    theirs = sorted(map(str, (listener.get("compute_config") or {}).get("k8s_namespaces") or []))
    ours = sorted(config.namespaces)
    if theirs != ours:
        return (
            f"listener {config.listener_id} is for the namespaces [{', '.join(theirs)}] on the control plane, but "
            f"AGENTPLANE_WATCH_NAMESPACES is [{', '.join(ours)}]; make them equal"
        )
    return None
