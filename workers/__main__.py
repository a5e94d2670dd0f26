"""The Celery processes: `python -m workers listener|operator|flower`.

Settings come from the environment (`engine.settings`). Each mistake in them is printed on a line of its own, and the
exit code is 2.

A worker takes no message before its configuration is in force (`engine/dataplane/configuration.py`), and waits while
Redis is away. On SIGTERM the worker takes no more messages, lets each running task finish its current act, requests
what is left to do from other workers, and ends. A task that does not finish its act within the grace period is handed
back in the middle: acts may run twice, and another worker continues when the lock has expired.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

import structlog
from celery import Celery, signals  # type: ignore[import-untyped]
from celery.utils.nodenames import default_nodename, host_format  # type: ignore[import-untyped]
from celery.worker import WorkController, state  # type: ignore[import-untyped]

from engine import bootstrap, telemetry
from engine.dataplane.configuration import PRESENCE_EVERY
from engine.errors import AgentplaneError, FutureEvent, LogUnavailable, SettingsError
from engine.runtime.advance import described
from engine.settings import Settings
from workers import heartbeat, tasks
from workers.app import build, queue_name, served_queues
from workers.dispatch import CeleryDispatcher

log = structlog.get_logger(__name__)

WORKERS = ("listener", "operator")
THREADS = 16
"""Default of --threads: tasks that a worker runs at once."""
GRACE = 30.0
"""Default of --grace: seconds from SIGTERM to the end at most, as Kubernetes' terminationGracePeriodSeconds."""
HAND_BACK_SECONDS = 5.0
"""Seconds of the grace period that are reserved for handing back unfinished tasks."""
REDIS_AGAIN_SECONDS = 1.0
"""Seconds between two attempts to reach Redis at the start."""

QUIET = ("celery.worker.strategy", "celery.app.trace", "celery.beat", "celery.redirected")
"""Loggers that write a line or two for every message; the engine logs what was done."""


def quieten() -> None:
    """Let Celery log warnings and errors only."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def main(arguments: Sequence[str] | None = None, *, process: str = "") -> int:
    """Run one process in the foreground until SIGTERM or SIGINT; return its exit code.

    `process` is the process of the command `agentplane <process>`; without it, the first argument names the process.
    """
    prog = f"agentplane {process}" if process else "python -m workers"
    parser = argparse.ArgumentParser(prog=prog, description="Run a Celery process of the data plane.")
    if process:
        parser.set_defaults(process=process)
    else:
        parser.add_argument("process", choices=[*WORKERS, "flower"])
    parser.add_argument("--threads", type=int, default=THREADS, help=f"tasks that run at once (default {THREADS})")
    parser.add_argument(
        "--grace", type=float, default=GRACE, help=f"seconds from SIGTERM to the end at most (default {GRACE:g})"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="print whether it is alive; exit with 1 if not",
    )
    options = parser.parse_args(arguments)
    try:
        settings = Settings.load()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        dead = heartbeat.check(settings, options.process)
        print(dead or "alive", file=sys.stderr)
        return 1 if dead else 0
    telemetry.configure(settings, options.process)
    quieten()
    if options.process == "flower":
        return flower(settings)
    return work(settings, options.process, options.threads, grace=options.grace)


def work(
    settings: Settings, process: str, threads: int, engine: bootstrap.Engine | None = None, grace: float = GRACE
) -> int:
    """Run a worker of `process` with that many threads; return its exit code.

    `engine` replaces the engine that the settings describe. `grace` is seconds from SIGTERM to the end.
    """
    app = build(settings, process)
    dispatcher = CeleryDispatcher(settings, app)
    engine = engine or bootstrap.build(settings, dispatcher)
    tasks.register(app, lambda: engine, dispatcher)
    app.steps["worker"].add(heartbeat.touching(heartbeat.heartbeat_file(settings, process)))
    signals.worker_shutting_down.connect(lambda **_: engine.stopping.set(), weak=False)
    if settings.metrics_port is not None:
        telemetry.serve_metrics(settings.metrics_port, engine.events, dispatcher.waiting)
    if not recorded(lambda: engine.configurations.record(process)):
        return 1
    threading.Thread(target=announce_configuration, args=(engine, process), name="configuration", daemon=True).start()
    try:
        return run_worker(app, settings, process, threads, engine.stopping, grace)
    finally:
        engine.close()


def recorded(record: Callable[[], object]) -> bool:
    """Record a configuration, however long Redis is away; return True.

    Return False, with a line on stderr, if the log is of a newer program, as after a rollback.
    """
    while True:
        try:
            record()
            return True
        except FutureEvent as error:
            print(error, file=sys.stderr)
            return False
        except LogUnavailable as error:
            log.warning("waiting for Redis", reason=str(error))
            time.sleep(REDIS_AGAIN_SECONDS)


def announce_configuration(engine: bootstrap.Engine, component: str) -> None:
    """Announce regularly that a worker of `component` runs with this configuration, until the worker is stopping."""
    while not engine.stopping.wait(PRESENCE_EVERY):
        try:
            engine.configurations.keep(component, time.monotonic())
        except AgentplaneError as error:
            log.warning("cannot announce the configuration", component=component, reason=str(error))
        except Exception as defect:
            log.error("cannot announce the configuration", component=component, reason=described(defect))


def run_worker(
    app: Celery, settings: Settings, process: str, threads: int, stopping: threading.Event, grace: float
) -> int:
    """Consume messages until SIGTERM or SIGINT; return the exit code."""
    queues = [queue_name(settings, queue) for queue in served_queues(settings, process)]
    worker = app.Worker(
        hostname=host_format(default_nodename(f"{process}@%h")),
        pool_cls="threads",
        concurrency=threads,
        queues=queues,
        loglevel=settings.log_level.upper(),
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    signals.worker_ready.connect(lambda **_: log.info("ready", queues=queues, threads=threads), weak=False)
    threading.Thread(
        target=enforce_grace_period, args=(worker, stopping, grace), name="grace period", daemon=True
    ).start()
    worker.start()
    return int(worker.exitcode or 0)


def enforce_grace_period(worker: WorkController, stopping: threading.Event, grace: float) -> None:
    """End this process within `grace` seconds after `stopping` is set, whatever its tasks are waiting for."""
    stopping.wait()
    time.sleep(max(grace - HAND_BACK_SECONDS, grace / 2))
    log.warning(
        "grace period over; ending in the middle of an act",
        grace=grace,
        tasks=len(state.active_requests),
    )
    try:
        worker.consumer.hand_back()
    finally:
        os._exit(1)


def flower(settings: Settings) -> int:
    """Run the dashboard. Flower itself reads FLOWER_ADDRESS, FLOWER_PORT and so on from the environment."""
    columns = "name,args,state,received,runtime,worker"
    build(settings).start(argv=["flower", f"--logging={settings.log_level}", f"--tasks_columns={columns}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
