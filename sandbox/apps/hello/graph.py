"""The sandbox's first image: greets, and proves that its secret arrived without telling it.

Input `{"name": "Ada"}`; the answer carries the length and a short digest of the environment variable GREETING_SECRET
(its name can be changed with SECRET_NAME), so that a changed secret is visible and its value is not.
"""

from __future__ import annotations

import hashlib
import os
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """What goes in and what comes out."""

    name: str
    answer: str
    secret: dict[str, str | int | bool]


def fingerprint(name: str) -> dict[str, str | int | bool]:
    """Presence, length and the first 12 hex digits of the SHA-256 of an environment variable."""
    value = os.environ.get(name)
    if value is None:
        return {"name": name, "present": False}
    digest = hashlib.sha256(value.encode()).hexdigest()[:12]
    return {"name": name, "present": True, "length": len(value), "sha256": digest}


def greet(state: State) -> State:
    """The only step."""
    secret = fingerprint(os.environ.get("SECRET_NAME", "GREETING_SECRET"))
    return {"answer": f"hello, {state.get('name', 'world')}", "secret": secret}


graph = StateGraph(State).add_node("greet", greet).add_edge(START, "greet").add_edge("greet", END).compile()
