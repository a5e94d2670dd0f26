"""Which configuration of each component is in force, and who may work under it.

Theory of operation. What decisions depend on besides events is the *configuration* of a half and the program that
decides. Both are recorded as ConfigurationRecorded in the data plane's own stream, by a worker of that component when
it
starts; every stream of the component is marked dirty, and ConfigurationSpread says so. A crash in between leaves the
second
event out, and the next worker makes it good.

While pods are replaced, workers of two configurations run side by side. The one recorded last is in force. A worker
that has another one is *outdated*: it neither acts on a stream nor settles it, so that a stream which was marked for
the new configuration stays dirty until a worker of the new configuration has looked at it. The mark is read before the
recorded configuration, and the recorded configuration before the decision: if the configuration changes after that,
the mark changes too, and the log refuses to settle.

Only workers of a half put a configuration of it in the place of another, so a configuration in force has, or had, a
worker that can work under it. (The watcher records a half's configuration where the log holds none yet, so that what
the watcher appends can be replayed.) Each worker of the configuration in force leaves a sign every PRESENCE_EVERY
seconds. When there has been none for ABSENCE seconds (the new pod crashed; an old container restarted, recorded its
configuration once more and then ended), an outdated worker records its own configuration. So there is always a
configuration in force with a worker for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import EllipsisType

import structlog

import engine
from engine.dataplane.events import ConfigurationRecorded, ConfigurationSpread, identity
from engine.dataplane.stream import DataPlaneStream
from engine.digests import digest
from engine.errors import FutureEvent
from engine.log.contract import EventLog
from engine.runtime.machine import AnyMachine

log = structlog.get_logger(__name__)

PRESENCE_EVERY = 10.0
"""Seconds between two signs of a worker that it is there."""
PRESENCE_TTL = 30.0
"""Seconds for which a sign holds."""
ABSENCE = 60.0
"""Seconds after which an outdated worker that finds no sign (the last one has run out) records its configuration."""


@cache
def program() -> str:
    """Return the digest of this program's engine: another one may decide otherwise about the same events."""
    folder = Path(engine.__file__).parent
    return digest([(path.relative_to(folder).as_posix(), path.read_text()) for path in sorted(folder.rglob("*.py"))])


class Configurations:
    """The configurations of the components that run here, held against those in force."""

    def __init__(self, events: EventLog, own: DataPlaneStream, machines: Mapping[str, AnyMachine]) -> None:
        """`machines` are the components by stream prefix."""
        self._events = events
        self._own = own
        self._machines = {machine.name: machine for machine in machines.values()}
        self._recordings: dict[str, ConfigurationRecorded] = {}
        self._absent_since: dict[str, float] = {}
        """Half → since when no worker of the configuration in force was seen (monotonic seconds)."""

    def record(self, *components: str) -> list[str]:
        """Put our configuration of `components` (none: all that run here) in force; return those that this changed.

        Two workers may do this at once: marking twice costs one look at each stream. Raises LogUnavailable.
        """
        return [component for component in components or tuple(self._machines) if self._record(component)]

    def record_first(self) -> list[str]:
        """Put our configuration in force of each component that has none yet; return those components. Raises
        LogUnavailable."""
        in_force = self._own.state().configurations
        return (
            self.record(*missing)
            if (missing := [component for component in self._machines if component not in in_force])
            else []
        )

    def outdated(self, component: str) -> bool:
        """Whether another configuration of `component` than ours is in force; False while none is.

        An event of a newer program in the own stream means the same. Raises LogUnavailable.
        """
        try:
            in_force = self._own.state().configurations.get(component)
        except FutureEvent:
            return True
        return in_force is not None and in_force != self._identity(component)

    def keep(self, component: str, now: float) -> None:
        """Leave a sign that a worker of `component` with our configuration is there; or, where another configuration
        is in
        force and has had no worker for ABSENCE seconds, put ours in its place.

        To be called every PRESENCE_EVERY seconds by each worker; `now` is monotonic seconds. Raises LogUnavailable.
        """
        in_force = self._own.state().configurations.get(component)
        if in_force is None or in_force == self._identity(component):
            self._absent_since.pop(component, None)
            self._record(component, instead_of=in_force)
        elif self._events.announced(_presence(component, in_force)):
            self._absent_since.pop(component, None)
        elif now - self._absent_since.setdefault(component, now) >= ABSENCE:
            log.warning("no worker of the configuration in force is left, recording ours", component=component)
            self._record(component, instead_of=in_force)

    def _ours(self, component: str) -> ConfigurationRecorded:
        if component not in self._recordings:
            self._recordings[component] = _recording(self._machines[component])
        return self._recordings[component]

    def _identity(self, component: str) -> str:
        ours = self._ours(component)
        return identity(ours.digest, ours.program)

    def _record(self, component: str, instead_of: str | EllipsisType | None = ...) -> bool:
        """Put our configuration in force, unless another one than `instead_of` is by now (...: in any case), and mark
        every stream of the component. Return whether any of that was left to do.
        """
        ours, mine = self._ours(component), self._identity(component)
        # The sign first, so that no outdated worker finds the configuration in force without a worker.
        self._events.announce(_presence(component, mine), PRESENCE_TTL)
        state = self._own.state()
        if state.configurations.get(component) != mine:
            if not self._own.append(ours, lambda now: instead_of in (..., now.configurations.get(component))):
                return False
            log.info("configuration recorded", stream=self._own.name, component=component, digest=ours.digest)
        elif state.spread.get(component) == mine:
            return False
        for stream in self._events.streams(self._machines[component].stream_prefix):
            self._events.mark_dirty(stream)
        spread = ConfigurationSpread(component=component, digest=ours.digest, program=ours.program)
        return self._own.append(spread, lambda now: now.configurations.get(component) == mine)


def _recording(machine: AnyMachine) -> ConfigurationRecorded:
    config = machine.config.model_dump(mode="json")
    return ConfigurationRecorded(component=machine.name, digest=digest(config), config=config, program=program())


def _presence(component: str, configuration: str) -> str:
    return f"{component}/{configuration}"
