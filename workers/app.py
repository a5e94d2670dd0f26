"""The Celery app and its configuration: queues, acknowledgement, visibility timeout, prefetch, broker connection.

A Celery message is a request to look at a stream, nothing more: which work there is, and that it was done, is in the
event log. So a message may be lost (a sweep sends it again), late or duplicate (the second look finds nothing to do),
and no result is kept. The choices here follow from that:

- *Late acknowledgement, and a visibility timeout* (`VISIBILITY_TIMEOUT_SECONDS`) as long as the longest hold of a lock.
  The broker delivers a message again when its worker is dead or stuck. Nothing waits for that: the stream of a killed
  worker is dirty, so the sweep requests it as soon as the dead worker's lock has expired.
- *A hash of unacknowledged messages for each kind of worker*, so that an autoscaler that counts what the workers of one
  kind have in hand does not count the other kind. Processes that only send have none.
- *No prefetch*: on Redis, kombu's prefetch count drifts upwards over a worker's life. A worker that hoards messages
  starves the others, and makes the queue look empty to an autoscaler that reads its length.
  `worker_disable_prefetch` limits what a worker has reserved to the size of its pool, whatever the count says.
- *No ETA, no countdown, no priorities*: a message with an ETA sits unacknowledged in a worker until it is delivered
  again; priorities split a queue over several lists. Timers are in the event log (`due`), and a queue is one list.
- *Threads rather than processes.* Acts wait for the network. Threads share one pool of connections to Kubernetes, and
  the memory of the poll, which is what makes an unchanged poll cheap: with processes, each would parse every
  deployment again. Measured on two busy cores, from dispatch to the event of a one-act stream: 4.2 ms and 300 streams
  a second with 16 threads in 67 MB; 4.5 ms and 500 a second with 4 processes in 207 MB; 8 processes are no faster.
  A thread that hangs cannot be killed, so every call of an adapter has a timeout, and a worker whose loop is stuck
  fails its liveness check (`workers.heartbeat`). For more work than one interpreter can do, run more replicas: locks
  and the log allow it.
- *Retry forever*: workers wait for a broker that is away, at the start or later.

Keys in Redis are `<prefix>:…` (those of the event log are `{<prefix>}:…`), queues `<prefix>.<name>`: installations that
share a Redis see neither each other's messages nor each other's workers.

The poll interval is not here: the setting `poll_seconds`, and beat/schedule.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, signals  # type: ignore[import-untyped]
from kombu.entity import Exchange, Queue

from engine.log.sentinels import Sentinels
from engine.settings import Settings

CONTROL_PLANE, RECONCILE, OPERATOR = "control-plane", "reconcile", "operator"
"""Queues, without prefix: for polls and sweeps, for streams of deployments, for streams of LGPs."""
QUEUES = (CONTROL_PLANE, RECONCILE, OPERATOR)

VISIBILITY_TIMEOUT_SECONDS = 900
"""Celery's visibility timeout: seconds after which the broker delivers an unacknowledged message again. A test
proves that it is the longest hold of a lock (LONGEST_HOLD in `engine/runtime/lock_renewal.py`).

Until then, messages of a killed worker count as in flight. A task that takes longer has lost its lock, so the second
delivery does no harm.
"""
SOCKET_SECONDS = 10
"""Seconds of silence after which a command to the broker fails; longer than a blocking read of the queues (1 s)."""
HEALTH_SECONDS = 10
"""Seconds between two checks of an idle connection; two checks notice a broker that vanished."""


def queue_name(settings: Settings, queue: str) -> str:
    """Return the name of a queue of this installation."""
    return f"{settings.prefix}.{queue}"


def key_prefix(settings: Settings) -> str:
    """Return the beginning of every key of the broker in Redis."""
    return f"{settings.prefix}:"


def list_key(settings: Settings, queue: str) -> str:
    """Return the key of the list that is the queue; an autoscaler reads its length."""
    return key_prefix(settings) + queue_name(settings, queue)


def unacknowledged(worker: str) -> dict[str, str]:
    """Return kombu's options for the keys of unacknowledged messages of this kind of worker, `listener` or `operator`.

    Each kind has keys of its own, so that an autoscaler can count them. Workers deliver again the messages that dead
    workers of their own kind held.
    """
    return {f"{name}_key": f"{name}.{worker}" for name in ("unacked", "unacked_index", "unacked_mutex")}


def in_flight_key(settings: Settings, worker: str) -> str:
    """Return the key of the hash of unacknowledged messages of this kind of worker; an autoscaler counts them."""
    return key_prefix(settings) + unacknowledged(worker)["unacked_key"]


def served_queues(settings: Settings, worker: str) -> list[str]:
    """Return the queues that the `listener` or `operator` worker serves. An operator that runs alone also sweeps."""
    if worker == "listener":
        return [CONTROL_PLANE, RECONCILE]
    return [OPERATOR] if settings.listener_enabled else [CONTROL_PLANE, OPERATOR]


def build(settings: Settings, worker: str | None = None) -> Celery:
    """Return the app of this installation. Opens no connection.

    `worker` is `listener` or `operator`; None for a process that only sends messages or inspects workers.
    """
    where = settings.redis
    app = Celery("agentplane", broker=where.url if isinstance(where, Sentinels) else where, set_as_current=False)
    app.conf.update(configuration(settings, worker))
    return app


def configuration(settings: Settings, worker: str | None = None) -> Mapping[str, Any]:
    """Return Celery's configuration for this kind of worker; None for a process that only sends or inspects."""
    return {
        # messages
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "result_backend": None,
        "enable_utc": True,
        # queues
        "task_queues": [_queue(queue_name(settings, queue)) for queue in QUEUES],
        "task_default_queue": queue_name(settings, RECONCILE),
        "task_create_missing_queues": False,
        # acknowledgement and prefetch
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # time limits: they work in pools of processes only; threads rely on the timeouts of the adapters
        "task_soft_time_limit": VISIBILITY_TIMEOUT_SECONDS // 3,
        "task_time_limit": VISIBILITY_TIMEOUT_SECONDS // 2,
        # the certificate of the broker: kombu alone would accept any
        "broker_use_ssl": tls(settings),
        # a broker that is away
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # the broker refuses: a full disk, a replica instead of the master
        "broker_connection_timeout": 4,
        "worker_consumer": "workers.consumer:Consumer",
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.5},
        "broker_transport_options": {
            "global_keyprefix": key_prefix(settings),
            **(unacknowledged(worker) if worker else {}),
            **through_sentinels(settings),
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "priority_steps": [0],
            "queue_order_strategy": "round_robin",
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": 4,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_SECONDS,
            "retry_on_timeout": True,
        },
        # events for dashboards
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # our own logging
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def tls(settings: Settings) -> Mapping[str, str | bool] | None:
    """Return how to verify the broker's certificate; None without TLS. The URL may override it (`?ssl_cert_reqs=…`)."""
    where = settings.redis
    if isinstance(where, Sentinels):
        return where.tls or None
    return {"ssl_cert_reqs": "required"} if where.startswith("rediss://") else None


def through_sentinels(settings: Settings) -> Mapping[str, object]:
    """Return kombu's options for a broker behind Sentinels; empty for any other."""
    where = settings.redis
    if not isinstance(where, Sentinels):
        return {}
    return {"master_name": where.master, "sentinel_kwargs": where.own_options}


def _queue(name: str) -> Queue:
    """Return a queue with an exchange of its own, so that no message is routed to two queues."""
    exchange: Callable[..., Exchange] = Exchange
    queue: Callable[..., Queue] = Queue
    return queue(name, exchange(name, type="direct"), routing_key=name)


def __getattr__(name: str) -> Celery:
    """Return the app of this environment as `app`, for commands such as `celery -A workers.app inspect active`."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return build(Settings.load())


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _leave_logging_alone(**_: object) -> None:
    """Keep Celery from configuring logs, as any receiver does; `telemetry.configure` configures them."""
