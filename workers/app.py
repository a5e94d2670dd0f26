"""The one place that builds the Celery app.

Celery carries requests to look at a stream, nothing more: which work there is, and that it was done, is in the event
log. So a message may be lost (a sweep makes it good), come twice or late (the second look finds nothing to do), and no
result is kept. From that follow the choices here:

- *Late acknowledgement*, and a visibility timeout as long as the longest hold of a lock: a message is handed out again
  when its worker is gone, or stuck. Nobody waits for that, though: the stream of a worker that was killed is dirty, so
  the sweep asks for it again as soon as the lock of the dead has run out.
- *A hash of unacknowledged messages for each kind of worker*, so that whoever scales the workers of one kind by what
  they have in hand does not count the other's. Who only sends has none.
- *No prefetch*: kombu's prefetch count drifts upwards over a worker's life on Redis, and a worker that hoards messages
  starves the others and makes the queue look empty to whoever scales by its length. `worker_disable_prefetch` caps what
  a worker has reserved at the size of its pool, whatever the count says.
- *No ETA, no countdown, no priorities*: such a message sits unacknowledged in a worker until it is handed out again;
  priorities split a queue over several lists. Timers are in the event log (`due`), and a queue is one list.
- *Threads rather than processes.* Acts wait for the network. Threads share one pool of connections to Kubernetes, and
  the memory of the poll, which is what makes an unchanged poll cheap: with processes, each would parse every
  deployment again. Measured on two busy cores, from dispatch to the event of a one-act stream: 4.2 ms and 300 streams
  a second with 16 threads in 67 MB; 4.5 ms and 500 a second with 4 processes in 207 MB; 8 processes are no faster.
  What threads cannot do is to kill a task that hangs, so every call of an adapter has a timeout, and a worker
  whose loop is stuck fails its liveness check (`workers.heartbeat`). More work than one interpreter can do is for more
  replicas, which locks and the log allow.
- *Forever*: a broker that is away, at the start or later, is waited for.

Keys in Redis are `<prefix>:…` (the event log's are `{<prefix>}:…`), queues `<prefix>.<name>`: installations that share
a Redis see neither each other's messages nor each other's workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, signals  # type: ignore[import-untyped]
from kombu.entity import Exchange, Queue

from engine.log.sentinels import Sentinels
from engine.runtime.lock_renewal import LONGEST_HOLD
from engine.settings import Settings

CONTROL_PLANE, RECONCILE, OPERATOR = "control-plane", "reconcile", "operator"
"""Queues, without their prefix: polls and sweeps; streams of deployments; streams of LGPs."""
QUEUES = (CONTROL_PLANE, RECONCILE, OPERATOR)

VISIBILITY_SECONDS = int(LONGEST_HOLD)
"""After which an unacknowledged message is handed out again. Until then, what a killed worker had in hand counts as in
flight; and a task that takes longer has lost its lock, so that its twin does no harm."""
SOCKET_SECONDS = 10
"""Of silence after which a command to the broker has failed; longer than a blocking read of the queues (1 s)."""
HEALTH_SECONDS = 10
"""Between two checks of an idle connection: a broker that vanished without a word is noticed in two of them."""


def queue_name(settings: Settings, queue: str) -> str:
    """Return the name of a queue of this installation."""
    return f"{settings.prefix}.{queue}"


def key_prefix(settings: Settings) -> str:
    """Return what every key of the broker in Redis starts with."""
    return f"{settings.prefix}:"


def list_key(settings: Settings, queue: str) -> str:
    """Return the key of the list that is the queue: what a scaler reads the length of."""
    return key_prefix(settings) + queue_name(settings, queue)


def unacknowledged(worker: str) -> dict[str, str]:
    """Return kombu's names for where workers of this kind, `listener` or `operator`, keep what they have in hand.

    Each kind has its own, so that a scaler can count it, and hands out again what the dead of its own kind held.
    """
    return {f"{name}_key": f"{name}.{worker}" for name in ("unacked", "unacked_index", "unacked_mutex")}


def in_flight_key(settings: Settings, worker: str) -> str:
    """Return the key of the hash of messages that workers of this kind have in hand: what a scaler counts."""
    return key_prefix(settings) + unacknowledged(worker)["unacked_key"]


def served_queues(settings: Settings, worker: str) -> list[str]:
    """Return the queues of the `listener` or `operator` worker: an operator that runs alone sweeps, too."""
    if worker == "listener":
        return [CONTROL_PLANE, RECONCILE]
    return [OPERATOR] if settings.listener_enabled else [CONTROL_PLANE, OPERATOR]


def build(settings: Settings, worker: str | None = None) -> Celery:
    """Return the app of this installation, for a `listener` or `operator` worker or for who only sends and looks.

    Opens no connection.
    """
    where = settings.redis
    app = Celery("agentplane", broker=where.url if isinstance(where, Sentinels) else where, set_as_current=False)
    app.conf.update(configuration(settings, worker))
    return app


def configuration(settings: Settings, worker: str | None = None) -> Mapping[str, Any]:
    """Return Celery's configuration, for a worker or for who only sends and looks."""
    return {
        # what travels
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "result_backend": None,
        "enable_utc": True,
        # where
        "task_queues": [_queue(queue_name(settings, queue)) for queue in QUEUES],
        "task_default_queue": queue_name(settings, RECONCILE),
        "task_create_missing_queues": False,
        # how often
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # how long: for pools of processes; threads rely on the timeouts of the adapters
        "task_soft_time_limit": VISIBILITY_SECONDS // 3,
        "task_time_limit": VISIBILITY_SECONDS // 2,
        # who the broker is: kombu alone would take any certificate
        "broker_use_ssl": tls(settings),
        # a broker that is away
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # it refuses: a full disk, a replica in the place of the master
        "broker_connection_timeout": 4,
        "worker_consumer": "workers.consumer:Consumer",
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.5},
        "broker_transport_options": {
            "global_keyprefix": key_prefix(settings),
            **(unacknowledged(worker) if worker else {}),
            **through_sentinels(settings),
            "visibility_timeout": VISIBILITY_SECONDS,
            "priority_steps": [0],
            "queue_order_strategy": "round_robin",
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": 4,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_SECONDS,
            "retry_on_timeout": True,
        },
        # what a dashboard shows
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # our own logging
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def tls(settings: Settings) -> Mapping[str, str | bool] | None:
    """Return how the broker's certificate is checked unless the URL says otherwise (`?ssl_cert_reqs=…`)."""
    where = settings.redis
    if isinstance(where, Sentinels):
        return where.tls or None
    return {"ssl_cert_reqs": "required"} if where.startswith("rediss://") else None


def through_sentinels(settings: Settings) -> Mapping[str, Any]:
    """Return kombu's options for a broker that Sentinels know; none for another."""
    where = settings.redis
    if not isinstance(where, Sentinels):
        return {}
    return {"master_name": where.master, "sentinel_kwargs": where.own_options}


def _queue(name: str) -> Queue:
    """A queue with an exchange of its own, so that nothing is routed to two."""
    exchange: Callable[..., Exchange] = Exchange
    queue: Callable[..., Queue] = Queue
    return queue(name, exchange(name, type="direct"), routing_key=name)


def __getattr__(name: str) -> Celery:
    """`celery -A workers.app inspect active` and the like find the app of this environment as `app`."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return build(Settings.load())


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _leave_logging_alone(**_: object) -> None:
    """Having a receiver keeps Celery from configuring logs; `telemetry.configure` does."""
