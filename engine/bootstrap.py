"""Wiring: builds an engine from settings. Only this module knows which adapter is behind which port.

engine = bootstrap.build(Settings.load(), dispatcher)     # opens no connection yet
engine.configurations.record("listener")                  # once per worker, before its first task
engine.advance("deployment/…")                            # for each request to advance a stream
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version

from engine import telemetry
from engine.clock import SystemClock
from engine.control_plane.client import HttpControlPlane
from engine.control_plane.health import HttpHealth
from engine.dataplane.configuration import Configurations
from engine.dataplane.namespaces import renew_leases
from engine.dataplane.stream import DataPlaneStream
from engine.digests import keyed_digest
from engine.errors import AgentplaneError, LockLost
from engine.kubernetes.cluster import KubernetesCluster
from engine.kubernetes.namespace_lease import SHARED, NamespaceLeases
from engine.listener.config import ListenerConfig
from engine.listener.deletions import DeletionGuard
from engine.listener.machine import ListenerMachine
from engine.listener.poll import Poller
from engine.listener.poll_context import PollOutcome, PollResult
from engine.log.contract import EventLog
from engine.log.counted import CountedLog
from engine.log.redis import RedisLog
from engine.names import data_plane_stream
from engine.operator.config import Gateway, OperatorConfig, SharedIngress, Templates
from engine.operator.machine import OperatorMachine
from engine.ports import Cluster, ControlPlane, Dispatcher, HealthProbe, Ports
from engine.runtime.advance import Advanced, Outcome, advance
from engine.runtime.backoff import Backoff
from engine.runtime.machine import AnyMachine
from engine.runtime.sweep_only import SweepOnly
from engine.settings import Settings

PROGRAM_VERSION = version("agentplane")


class UnknownStream(AgentplaneError):
    """No component that runs here owns this stream."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A wired engine. It opens its connections at their first use; `close` closes them."""

    settings: Settings
    events: EventLog
    ports: Ports
    dispatcher: Dispatcher
    leases: NamespaceLeases
    """The leases on the watched namespaces."""
    machines: Mapping[str, AnyMachine]
    """Stream prefix → the component that owns such streams; only the components that run here."""
    backoff: Backoff = field(default_factory=Backoff)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when this process is to end: `advance` returns after the current act."""

    def machine_of(self, stream: str) -> AnyMachine:
        """Return the component that owns `stream`. Raises UnknownStream."""
        for prefix, machine in self.machines.items():
            if stream.startswith(prefix):
                return machine
        here = ", ".join(f"{prefix}…" for prefix in self.machines) or "none"
        raise UnknownStream(f"stream {stream!r} belongs to no component that runs here (their streams: {here})")

    def owns(self, stream: str) -> bool:
        """Whether a component that runs here owns `stream`, or it is the data plane's own stream."""
        return stream == self.own_stream or any(stream.startswith(prefix) for prefix in self.machines)

    def advance(self, stream: str) -> Advanced:
        """Advance `stream` until it waits or is done (see `runtime.advance`). Raises UnknownStream, LogUnavailable."""
        if stream == self.own_stream:
            return self._acknowledge_own()
        machine = self.machine_of(stream)
        advanced = advance(
            stream,
            machine,
            self.events,
            self.ports,
            lock_ttl=self.settings.lock_seconds,
            backoff=self.backoff,
            stopping=self.stopping.is_set,
            outdated=lambda: self.configurations.outdated(machine.name),
            measure=telemetry.measured,
        )
        telemetry.ADVANCES.labels(machine.name, advanced.outcome).inc()
        return advanced

    def poll(self) -> PollResult:
        """Poll the control plane once. Raises LogUnavailable; UnknownStream if the listener does not run here.

        An outdated listener leaves the poll to a listener with the configuration in force.
        """
        if self.configurations.outdated(ListenerMachine.name):
            telemetry.POLLS.labels(PollOutcome.OUTDATED).inc()
            return PollResult(outcome=PollOutcome.OUTDATED)
        seconds: list[float] = []
        with telemetry.bound(listener=self.settings.stream_name), telemetry.timed(seconds.append):
            result = self.poller.poll()
        telemetry.POLLS.labels(result.outcome).inc()
        if result.outcome in (PollOutcome.POLLED, PollOutcome.FAILED):
            telemetry.POLL_SECONDS.observe(seconds[0])
        return result

    @property
    def own_stream(self) -> str:
        return data_plane_stream(self.settings.stream_name)

    @cached_property
    def own(self) -> DataPlaneStream:
        """The data plane's own stream."""
        return DataPlaneStream(self.events, self.own_stream)

    @cached_property
    def configurations(self) -> Configurations:
        """The configurations of the components that run here, and those in force."""
        return Configurations(self.events, self.own, self.machines)

    @cached_property
    def poller(self) -> Poller:
        """The poller of this process, with its memory. Raises UnknownStream if the listener does not run here."""
        machine = self.machine_of(ListenerMachine.stream_prefix)
        assert isinstance(machine, ListenerMachine)
        return Poller(
            control_plane=self.ports.control_plane,
            events=self.events,
            own=self.own,
            clock=self.ports.clock,
            dispatcher=self.dispatcher,
            config=machine.config,
            digest=self.ports.digest,
            guard=DeletionGuard(share=self.settings.deletion_guard_share, minimum=self.settings.deletion_guard_minimum),
            version=PROGRAM_VERSION,
            lock_ttl=self.settings.lock_seconds,
        )

    def renew_leases(self) -> None:
        """Renew the leases on our namespaces, and record changes. Raises FutureEvent, LogUnavailable."""
        renew_leases(self.leases, self.own, self.events, self.machines)

    def _acknowledge_own(self) -> Advanced:
        """Acknowledge the data plane's own stream, which has no acts."""
        return Advanced(stream=self.own_stream, version=self.own.acknowledge(), acts=0, outcome=Outcome.ACKNOWLEDGED)

    def close(self) -> None:
        """Close every connection."""
        for part in (self.ports.control_plane, self.ports.cluster, self.ports.health, self.events):
            close = getattr(part, "close", None)
            if close is not None:
                close()


def build(
    settings: Settings,
    dispatcher: Dispatcher | None = None,
    *,
    events: EventLog | None = None,
    control_plane: ControlPlane | None = None,
    cluster: Cluster | None = None,
    health: HealthProbe | None = None,
) -> Engine:
    """Return an engine wired from `settings`. A given port or log replaces the adapter that the settings name.

    Raises SettingsError if there is no access to Kubernetes.
    """
    cluster = cluster or open_cluster(settings)
    leases = leases_of(settings, cluster)
    ports = Ports(
        control_plane=control_plane or HttpControlPlane.from_settings(settings),
        cluster=cluster,
        health=health or HttpHealth.from_settings(settings),
        clock=SystemClock(),
        keep_lock=_no_lock,
        digest=keyed_digest(_digest_secret(settings)),
        api_key=settings.langsmith_api_key.get_secret_value() if settings.langsmith_api_key else "",
        random=random.random,
        other_holder=leases.other_holder,
    )
    return Engine(
        settings=settings,
        events=events or open_log(settings),
        ports=ports,
        dispatcher=dispatcher or SweepOnly(),
        leases=leases,
        machines={machine.stream_prefix: machine for machine in machines(settings)},
    )


def machines(settings: Settings) -> list[AnyMachine]:
    """Return the machines of the components that run here."""
    components: list[AnyMachine] = []
    if settings.listener_enabled:
        components.append(ListenerMachine(listener_config(settings)))
    if settings.operator_enabled:
        components.append(OperatorMachine(operator_config(settings)))
    return components


def open_log(settings: Settings) -> RedisLog:
    """Return the event log of the installation. Opens no connection yet."""
    return CountedLog.from_url(settings.redis, settings.prefix)


def open_cluster(settings: Settings) -> KubernetesCluster:
    """Return the client of Kubernetes. Raises SettingsError if there is no access to Kubernetes."""
    return KubernetesCluster.load(
        settings.kubeconfig,
        settings.kube_context,
        connect_seconds=settings.connect_timeout_seconds,
        read_seconds=settings.request_timeout_seconds,
        watch_seconds=settings.watch_seconds,
        pool_size=settings.kube_connections,
    )


def leases_of(settings: Settings, cluster: Cluster) -> NamespaceLeases:
    """Return the leases on the watched namespaces. Sends no request yet."""
    return NamespaceLeases(
        cluster,
        SystemClock(),
        SHARED if settings.share_namespaces else settings.data_plane,
        settings.watch_namespaces,
        timedelta(seconds=settings.lease_seconds),
    )


def listener_config(settings: Settings) -> ListenerConfig:
    """Return the listener's configuration: what its decisions depend on besides events."""
    routing = settings.routing
    return ListenerConfig(
        listener_id=str(settings.listener_id),
        workspace_id=str(settings.workspace_id),
        namespaces=settings.watch_namespaces,
        smith_url=settings.smith_backend_url,
        tracing=settings.tracing_enabled,
        agent_auth=settings.agent_auth,
        queue_enabled=settings.queue_enabled,
        routed=routing.kind != "none",
        hostname=routing.hostname,
        base_path=routing.base_path,
        tls=routing.tls,
        rollout_deadline=settings.rollout_deadline_seconds,
        failure_grace=settings.failure_grace_seconds,
        stop_failed=settings.stop_failed_revisions,
        health_check=settings.health_check_enabled,
        health_deadline=settings.health_check_deadline_seconds,
    )


def operator_config(settings: Settings) -> OperatorConfig:
    """Return the operator's configuration: what its decisions depend on besides events.

    Raises SettingsError for a template that cannot be read.
    """
    return OperatorConfig(
        templates=Templates(**settings.templates()),
        ingress=SharedIngress(
            enabled=settings.routing.kind == "ingress",
            hostname=settings.ingress_hostname,
            base_path=settings.ingress_base_path,
            tls_enabled=settings.ingress_tls_enabled,
            namespace=settings.ingress_namespace,
            class_name=settings.ingress_class,
        ),
        gateway=Gateway(
            enabled=settings.gateway_enabled,
            name=settings.gateway_name,
            namespace=settings.gateway_namespace,
            hostname=settings.gateway_hostname,
            base_path=settings.gateway_base_path,
            tls_enabled=settings.gateway_tls_enabled,
        ),
        istio_gateway=Gateway(
            enabled=settings.istio_gateway_enabled,
            name=settings.istio_gateway_name,
            namespace=settings.istio_gateway_namespace,
            hostname=settings.istio_gateway_hostname,
            base_path=settings.istio_gateway_base_path,
            tls_enabled=settings.istio_gateway_tls_enabled,
        ),
        keda_enabled=settings.keda_enabled,
        managed_service_accounts=settings.managed_service_accounts,
        managed_secret_provider_classes=settings.managed_secret_provider_classes,
        pod_disruption_budgets=settings.pod_disruption_budgets,
        cluster_domain=settings.cluster_domain,
        revision_history_limit=settings.revision_history_limit,
        redis_key_prefix=settings.agent_redis_key_prefix,
    )


def _digest_secret(settings: Settings) -> str:
    secret = settings.langsmith_api_key or settings.digest_key
    return secret.get_secret_value() if secret is not None else ""


def _no_lock() -> None:
    raise LockLost("no stream is being advanced; a write to the cluster needs the lock of a stream")
