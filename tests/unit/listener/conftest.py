"""Fakes that fit on a screen, and a deployment of the control plane to play with."""

from __future__ import annotations

import pytest

from tests.support.listener import ListenerWorld


@pytest.fixture
def world() -> ListenerWorld:
    return ListenerWorld()
