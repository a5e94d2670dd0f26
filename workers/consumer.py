"""A consumer that lives through the loss of its broker in the middle of a task.

Celery and kombu 5.7 reconnect by themselves, but not when a message is being worked on: closing the lost connection
tries to put that message back into its queue through the very connection that is gone, which fails with an
AttributeError that nobody expects ("'NoneType' object has no attribute 'hostname'"), and the worker ends. If it came
further, the acknowledgement of the task, through the same channel, would end it in the same way. (Seen with celery
5.7.0 and kombu 5.7.0; `tests/integration/test_workers.py` restarts Redis under a task, and `test_sentinel.py` fails it
over: both fail without this.)

So the channel of a lost connection puts nothing back, and what is acknowledged through it is acknowledged through its
successor. Without one, the message is handed out again after the visibility timeout, to somebody who finds nothing to
do.
"""

from __future__ import annotations

import time
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer  # type: ignore[import-untyped]

REFUSED_SECONDS = 1.0
"""Between two attempts to consume from a broker that refuses: its disk is full, say, or it is to be a replica soon."""


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery's consumer, with messages that outlive their connection, and can be handed back."""

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Give a broker that can be reached, but refuses, a moment: Celery would ask again at once."""
        super().on_connection_error_before_connected(exc)
        time.sleep(REFUSED_SECONDS)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the lost connection."""
        if self.task_consumer is not None:
            self._outlive(self.task_consumer.channel)
        super().on_connection_error_after_connected(exc)

    def hand_back(self) -> None:
        """Put what is not acknowledged back into its queue, for a worker that cannot wait for its tasks."""
        if self.task_consumer is not None:
            self.task_consumer.channel.qos.restore_unacked()

    def _outlive(self, lost: Any) -> None:
        """Make acknowledgements on the `lost` channel go through the one that is in use by then."""

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
