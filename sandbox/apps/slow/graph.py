"""An image that takes START_SECONDS (default: 5) to start, for tests of rollouts and deadlines."""

from __future__ import annotations

import os
import time
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """Input and output of the graph."""

    name: str
    answer: str


def greet(state: State) -> State:
    """Greet `name`; the only node of the graph."""
    return {"answer": f"at last, {state.get('name', 'world')}"}


time.sleep(float(os.environ.get("START_SECONDS", "5")))
graph = StateGraph(State).add_node("greet", greet).add_edge(START, "greet").add_edge("greet", END).compile()
