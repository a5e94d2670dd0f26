"""Wiring: from settings to an engine that can work. Nobody else knows which adapter is behind which port.

engine = bootstrap.build(Settings.load(), dispatcher)     # opens no connection yet
engine.configurations.record("listener")                  # once per worker, before it works
engine.advance("deployment/…")                            # as often as anybody asks
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version

import structlog

from engine import telemetry
from engine.clock import SystemClock
from engine.control_plane.client import HttpControlPlane
from engine.control_plane.health import HttpHealth
from engine.dataplane.configuration import Configurations
from engine.dataplane.events import NamespaceLeased, NamespaceLeft, NamespaceRefused
from engine.dataplane.stream import DataPlaneStream
from engine.digests import keyed_digest
from engine.errors import AgentplaneError, ClusterError, LockLost
from engine.event import Event
from engine.kubernetes.cluster import KubernetesCluster
from engine.kubernetes.namespace_lease import SHARED, NamespaceLeases
from engine.listener.config import ListenerConfig
from engine.listener.machine import ListenerMachine
from engine.listener.poll import DeletionGuard, Poller, PollResult
from engine.log.contract import EventLog, Lock
from engine.log.redis import RedisLog
from engine.names import data_plane_stream
from engine.operator.config import Gateway, OperatorConfig, SharedIngress, Templates
from engine.operator.machine import OperatorMachine
from engine.ports import Cluster, ControlPlane, Dispatcher, HealthProbe, Ports
from engine.runtime.advance import Advanced, Outcome, advance
from engine.runtime.machine import AnyMachine
from engine.runtime.retry import Backoff
from engine.settings import Settings

log = structlog.get_logger(__name__)

PROGRAM_VERSION = version("agentplane")


class UnknownStream(AgentplaneError):
    """No component that runs here owns streams of this name."""


class CountedLog(RedisLog):
    """The event log in Redis, with its appends counted by type."""

    def append(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[Event],
        *,
        actor: str,
        cause: str | None = None,
        lock: Lock | None = None,
    ) -> int:
        at = super().append(stream, expected_version, events, actor=actor, cause=cause, lock=lock)
        for event in events:
            telemetry.EVENTS.labels(event.type).inc()
        return at


class SweepOnly:
    """A dispatcher that sends nothing: streams stay dirty until somebody sweeps."""

    def dispatch(self, stream: str) -> None:
        log.debug("left to the sweep", stream=stream)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine, wired. Opens its connections when they are first used; close it in the end."""

    settings: Settings
    events: EventLog
    ports: Ports
    dispatcher: Dispatcher
    leases: NamespaceLeases
    """Of the watched namespaces."""
    machines: Mapping[str, AnyMachine]
    """Stream prefix → the component that owns such streams, of those that run here."""
    backoff: Backoff = field(default_factory=Backoff)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when this process is to end: `advance` stops after the act it is in."""

    def machine_of(self, stream: str) -> AnyMachine:
        """Return the component that owns `stream`. Raises UnknownStream."""
        for prefix, machine in self.machines.items():
            if stream.startswith(prefix):
                return machine
        here = ", ".join(f"{prefix}…" for prefix in self.machines) or "none"
        raise UnknownStream(f"stream {stream!r} belongs to no component that runs here (streams of this one: {here})")

    def owns(self, stream: str) -> bool:
        """Whether `advance` can do something for `stream` here."""
        return stream == self.own_stream or any(stream.startswith(prefix) for prefix in self.machines)

    def advance(self, stream: str) -> Advanced:
        """Bring `stream` as far as it goes now. Raises UnknownStream, LogUnavailable."""
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
        """Poll the control plane once. Raises UnknownStream where the listener does not run, LogUnavailable.

        A listener that is outdated leaves it to one with the configuration in force.
        """
        if self.configurations.outdated(ListenerMachine.name):
            telemetry.POLLS.labels("outdated").inc()
            return PollResult(outcome="outdated")
        seconds: list[float] = []
        with telemetry.bound(listener=self.settings.stream_name), telemetry.timed(seconds.append):
            result = self.poller.poll()
        telemetry.POLLS.labels(result.outcome).inc()
        if result.outcome in ("polled", "failed"):
            telemetry.POLL_SECONDS.observe(seconds[0])
        return result

    @property
    def own_stream(self) -> str:
        return data_plane_stream(self.settings.stream_name)

    @cached_property
    def own(self) -> DataPlaneStream:
        """The stream of this data plane itself."""
        return DataPlaneStream(self.events, self.own_stream)

    @cached_property
    def configurations(self) -> Configurations:
        """Which configurations are in force, and which are ours."""
        return Configurations(self.events, self.own, self.machines)

    @cached_property
    def poller(self) -> Poller:
        """The poll of this process, with its memory. Raises UnknownStream where the listener does not run."""
        machine = self.machine_of(ListenerMachine.stream_prefix)
        assert isinstance(machine, ListenerMachine)
        return Poller(
            control_plane=self.ports.control_plane,
            events=self.events,
            clock=self.ports.clock,
            dispatcher=self.dispatcher,
            config=machine.config,
            digest=self.ports.digest,
            guard=DeletionGuard(share=self.settings.deletion_guard_share, minimum=self.settings.deletion_guard_minimum),
            version=PROGRAM_VERSION,
            lock_ttl=self.settings.lock_seconds,
        )

    # --- namespaces

    def renew_leases(self) -> None:
        """Renew the leases on our namespaces, and note which are ours and which another data plane's.

        When one becomes ours, its streams are marked dirty first: a crash in between does that once more. Raises
        LogUnavailable; what Kubernetes refuses is logged, and met again by the acts. A data plane that is being
        removed leases nothing any more.
        """
        state = self.own.state()
        if state.removing:
            return
        known = state.leases
        for namespace in self.leases.namespaces:
            try:
                other = self.leases.other_holder(namespace)
            except ClusterError as error:
                log.warning("namespace not leased", namespace=namespace, reason=str(error))
                continue
            if known.get(namespace) == (other or ""):
                continue
            if other is None:
                self._mark_namespace(namespace)
                self.own.append(NamespaceLeased(namespace=namespace))
                log.info("namespace leased", namespace=namespace, holder=self.leases.holder)
            else:
                self.own.append(NamespaceRefused(namespace=namespace, holder=other))
                log.error("namespace refused", namespace=namespace, holder=other)
        for namespace in sorted(known.keys() - set(self.leases.namespaces)):
            self.own.append(NamespaceLeft(namespace=namespace))

    def _mark_namespace(self, namespace: str) -> None:
        """Have every stream looked at that may write to `namespace`."""
        for prefix in self.machines:
            at = f"{prefix}{namespace}/" if prefix == OperatorMachine.stream_prefix else prefix
            for stream in self.events.streams(at):
                self.events.mark_dirty(stream)

    def _acknowledge_own(self) -> Advanced:
        """The own stream asks for nothing: what it holds is acted on by those who append to it."""
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
    """Wire an engine from `settings`; what is given takes the place of the real thing.

    Raises SettingsError where there is no way to Kubernetes.
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
    """Return the components that run here."""
    components: list[AnyMachine] = []
    if settings.listener_enabled:
        components.append(ListenerMachine(listener_config(settings)))
    if settings.operator_enabled:
        components.append(OperatorMachine(operator_config(settings)))
    return components


def open_log(settings: Settings) -> RedisLog:
    """Return the event log of the installation. Nothing is sent yet."""
    return CountedLog.from_url(settings.redis, settings.prefix)


def open_cluster(settings: Settings) -> KubernetesCluster:
    """Return the way to Kubernetes. Raises SettingsError where there is none."""
    return KubernetesCluster.load(
        settings.kubeconfig,
        settings.kube_context,
        connect_seconds=settings.connect_timeout_seconds,
        read_seconds=settings.request_timeout_seconds,
        watch_seconds=settings.watch_seconds,
        pool_size=settings.kube_connections,
    )


def leases_of(settings: Settings, cluster: Cluster) -> NamespaceLeases:
    """Return the leases on the watched namespaces. Nothing is sent yet."""
    return NamespaceLeases(
        cluster,
        SystemClock(),
        SHARED if settings.share_namespaces else settings.data_plane,
        settings.watch_namespaces,
        timedelta(seconds=settings.lease_seconds),
    )


def listener_config(settings: Settings) -> ListenerConfig:
    """Return what the listener's decisions depend on."""
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
    """Return what the operator's decisions depend on. Raises SettingsError for a template that cannot be read."""
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
    raise LockLost("no stream is being advanced: a write to the cluster needs its stream's lock")
