"""The tables of the machines: every class of events is handled, or ignored on purpose; every act has a performer."""

from __future__ import annotations

from types import ModuleType

import pytest

from engine.dataplane.events import DATA_PLANE_EVENTS
from engine.dataplane.state import HANDLERS as DATA_PLANE_HANDLERS
from engine.event import Registry
from engine.listener import acts as listener_acts
from engine.listener import perform as listener_perform
from engine.listener import state as listener_state
from engine.listener.events import DEPLOYMENT_EVENTS
from engine.operator import acts as operator_acts
from engine.operator import perform as operator_perform
from engine.operator import state as operator_state
from engine.operator.events import LGP_EVENTS
from engine.runtime.deferral import Ends
from engine.runtime.dispatch import Handlers, Performers
from engine.runtime.machine import Act


@pytest.mark.parametrize(
    ("handlers", "events"),
    [
        (listener_state.HANDLERS, DEPLOYMENT_EVENTS),
        (operator_state.HANDLERS, LGP_EVENTS),
        (DATA_PLANE_HANDLERS, DATA_PLANE_EVENTS),
    ],
    ids=["deployment", "lgp", "dataplane"],
)
def test_every_class_of_events_is_handled_or_ignored_on_purpose(handlers: Handlers[object], events: Registry) -> None:
    assert handlers.handled | handlers.ignored == events.classes


@pytest.mark.parametrize(
    ("acts", "performers"),
    [(listener_acts, listener_perform.PERFORMERS), (operator_acts, operator_perform.PERFORMERS)],
    ids=["listener", "operator"],
)
def test_every_act_has_a_performer(acts: ModuleType, performers: Performers[object]) -> None:
    classes = {value for value in vars(acts).values() if isinstance(value, type) and issubclass(value, Act)} - {Act}

    assert classes == performers.acts


@pytest.mark.parametrize(
    ("ends", "events", "performers"),
    [
        (listener_state.ENDS, DEPLOYMENT_EVENTS, listener_perform.PERFORMERS),
        (operator_state.ENDS, LGP_EVENTS, operator_perform.PERFORMERS),
    ],
    ids=["listener", "operator"],
)
def test_the_events_that_end_a_deferral_are_of_the_stream_and_name_acts_of_the_component(
    ends: Ends, events: Registry, performers: Performers[object]
) -> None:
    assert set(ends) <= events.classes
    assert set(ends.values()) <= performers.acts
