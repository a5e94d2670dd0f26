"""`agentplane run PROCESS`: the processes of the Procfile by name, so that a container needs one entry point."""

from __future__ import annotations

from pathlib import Path

COMMANDS = ("beat", "listener", "operator", "watcher", "flower")

PROCFILE = Path(__file__).resolve().parent.parent / "Procfile"
