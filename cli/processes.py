"""`agentplane listener` and the like: the processes themselves, so that a container needs one entry point.

What follows the name goes to the process as it is: `agentplane operator --threads 4`, `agentplane watcher --check`.
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

        return main([process, *arguments])

    return run


PROCESSES: Mapping[str, tuple[Callable[[list[str]], int], str]] = {
    "beat": (_beat, "Ask for polls, and sweep what is due."),
    "listener": (_worker("listener"), "Work on deployments: poll, and keep their LGPs."),
    "operator": (_worker("operator"), "Work on LGPs: keep their objects."),
    "watcher": (_watcher, "Watch the cluster."),
    "flower": (_worker("flower"), "Show the tasks."),
}
"""Name → what runs in the foreground until SIGTERM, and what it is for."""
