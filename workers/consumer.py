"""A Celery consumer that survives the loss of its broker in the middle of a task.

Celery and kombu 5.7 reconnect by themselves, but not while a task is running. When they close the lost connection,
they put the task's message back into its queue through that same connection. That fails with an unexpected
AttributeError ("'NoneType' object has no attribute 'hostname'"), and the worker ends. Otherwise the acknowledgement of
the task, through the same channel, would end the worker in the same way. (Seen with celery 5.7.0 and kombu 5.7.0;
`tests/integration/test_workers.py` restarts Redis under a task, `test_sentinel.py` fails it over: both fail without
this.)

So the channel of a lost connection puts nothing back, and acknowledges through the channel of the new connection. If
there is none, the broker delivers the message again after the visibility timeout; the stream then has nothing to do.
"""

from __future__ import annotations

import time
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer  # type: ignore[import-untyped]

REFUSED_SECONDS = 1.0
"""Seconds between two attempts to consume from a broker that refuses: a full disk, or a replica after a failover."""


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery's consumer, with messages that outlive their connection and can be handed back."""

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait a moment when the broker can be reached but refuses: Celery would try again at once."""
        super().on_connection_error_before_connected(exc)
        time.sleep(REFUSED_SECONDS)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Detach the running tasks from the lost connection."""
        if self.task_consumer is not None:
            self._outlive(self.task_consumer.channel)
        super().on_connection_error_after_connected(exc)

    def hand_back(self) -> None:
        """Put every unacknowledged message back into its queue: the worker ends before its tasks do."""
        if self.task_consumer is not None:
            self.task_consumer.channel.qos.restore_unacked()

    def _outlive(self, lost: Any) -> None:
        """Make acknowledgements on the `lost` channel go through the channel that is in use by then."""

        def successor() -> Any:
            current = self.task_consumer.channel if self.task_consumer is not None else None
            return None if current is lost else current

        def acknowledge(delivery_tag: str, multiple: bool = False) -> None:
            channel = successor()
            if channel is not None:
                channel.basic_ack(delivery_tag, multiple=multiple)

        def reject(delivery_tag: str, requeue: bool = False) -> None:
            channel = successor()
            if channel is not None:
                channel.basic_reject(delivery_tag, requeue=requeue)

        lost.do_restore = False
        lost.basic_ack, lost.basic_reject = acknowledge, reject
