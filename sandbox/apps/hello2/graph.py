"""The image for an update of `hello`: greets in French, and proves that its secret arrived, without printing it.

The input is `{"name": "Ada"}`. The output has the length and a short digest of the environment variable GREETING_SECRET
(SECRET_NAME can name another variable): they show that a secret changed, without its value.
"""

from __future__ import annotations

import hashlib
import os
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """Input and output of the graph."""

    name: str
    answer: str
    secret: dict[str, str | int | bool]


def fingerprint(name: str) -> dict[str, str | int | bool]:
    """Return presence, length and the first 12 hex digits of the SHA-256 of an environment variable."""
    value = os.environ.get(name)
    if value is None:
        return {"name": name, "present": False}
    digest = hashlib.sha256(value.encode()).hexdigest()[:12]
    return {"name": name, "present": True, "length": len(value), "sha256": digest}


def greet(state: State) -> State:
    """Greet `name`; the only node of the graph."""
    secret = fingerprint(os.environ.get("SECRET_NAME", "GREETING_SECRET"))
    return {"answer": f"bonjour, {state.get('name', 'world')}", "secret": secret}


graph = StateGraph(State).add_node("greet", greet).add_edge(START, "greet").add_edge("greet", END).compile()
