"""`agentplane beat`, `listener`, `operator`, `watcher` and `flower`: run one process of the data plane.

So a container needs one entry point only. Arguments after the name are passed to the process unchanged:
`agentplane operator --threads 4`, `agentplane watcher --check`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


def _beat(arguments: list[str]) -> int:
    from beat.__main__ import main

    return main(arguments)


def _watcher(arguments: list[str]) -> int:
    from workers.watcher import main

    return main(arguments)


def _worker(process: str) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        from workers.__main__ import main

        return main(arguments, process=process)

    return run


PROCESSES: Mapping[str, tuple[Callable[[list[str]], int], str]] = {
    "beat": (_beat, "Schedule polls and sweeps (Celery beat)."),
    "listener": (_worker("listener"), "Poll the control plane, and keep one LGP for each deployment (Celery worker)."),
    "operator": (_worker("operator"), "Keep the Kubernetes objects of each LGP (Celery worker)."),
    "watcher": (_watcher, "Watch the LGPs and their objects in the cluster, and record what changes."),
    "flower": (_worker("flower"), "Serve Flower, the dashboard of Celery tasks."),
}
"""Name → function that runs the process in the foreground until SIGTERM, and its help text."""
