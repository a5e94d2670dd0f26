"""The tables of the machines: every class of events is handled, or ignored on purpose."""

from __future__ import annotations

import pytest

from engine.dataplane.events import DATA_PLANE_EVENTS
from engine.dataplane.state import HANDLERS as DATA_PLANE_HANDLERS
from engine.event import Registry
from engine.listener import acts
from engine.listener.events import DEPLOYMENT_EVENTS
from engine.listener.perform import PERFORMERS
from engine.listener.state import ENDS
from engine.listener.state import HANDLERS as DEPLOYMENT_HANDLERS
from engine.runtime.dispatch import Handlers
from engine.runtime.machine import Act


@pytest.mark.parametrize(
    ("handlers", "events"),
    [(DEPLOYMENT_HANDLERS, DEPLOYMENT_EVENTS), (DATA_PLANE_HANDLERS, DATA_PLANE_EVENTS)],
    ids=["deployment", "dataplane"],
)
def test_every_class_of_events_is_handled_or_ignored_on_purpose(handlers: Handlers[object], events: Registry) -> None:
    assert handlers.handled | handlers.ignored == events.classes


def test_every_act_of_the_listener_has_a_performer() -> None:
    classes = {value for value in vars(acts).values() if isinstance(value, type) and issubclass(value, Act)} - {Act}

    assert classes == PERFORMERS.acts


def test_the_events_that_end_a_deferral_are_events_of_the_stream_and_name_acts_of_the_listener() -> None:
    assert set(ENDS) <= DEPLOYMENT_EVENTS.classes
    assert set(ENDS.values()) <= PERFORMERS.acts
