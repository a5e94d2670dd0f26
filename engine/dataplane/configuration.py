"""Which configuration of each component is in force, and which workers may work under it.

Theory of operation. The *configuration* of a component, and the program that decides, are all that decisions depend on
besides events. A worker of the component records both as ConfigurationRecorded in the data plane's own stream when the
worker starts. Then it marks every stream of the component dirty, and appends ConfigurationSpread. After a crash in
between, ConfigurationSpread is missing, and the next worker marks the streams and appends it.

While pods are replaced, workers of two configurations run side by side. The configuration that was recorded last is in
force. A worker with another configuration is *outdated*: it neither acts on a stream nor acknowledges it. So a stream
that was marked dirty for the new configuration stays dirty until a worker of the new configuration has advanced it. A
worker reads the stream's work token before the recorded configuration, and the recorded configuration before it
decides. If the configuration changes after that, the work token changes too, and the log refuses to acknowledge.

Only a worker of a component replaces the component's configuration, so a configuration in force has, or had, a worker.
(The watcher records a configuration where the log has none yet, so that the events that the watcher appends can be
replayed.) Each worker of the configuration in force announces its presence every PRESENCE_EVERY seconds. After ABSENCE
seconds without a presence (the new pod crashed; an old container restarted, recorded its configuration once more and
then ended), an outdated worker records its own configuration. So there is always a configuration in force that has a
worker.
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
"""Seconds between two announcements of a worker's presence."""
PRESENCE_TTL = 30.0
"""Seconds for which a presence holds."""
ABSENCE = 60.0
"""Seconds without a presence (the last one has run out) after which an outdated worker records its configuration."""


@cache
def program() -> str:
    """Return the digest of this program's engine: another program may decide otherwise about the same events."""
    folder = Path(engine.__file__).parent
    return digest([(path.relative_to(folder).as_posix(), path.read_text()) for path in sorted(folder.rglob("*.py"))])


class Configurations:
    """The configurations of the components that run here, compared with the configurations in force."""

    def __init__(self, events: EventLog, own: DataPlaneStream, machines: Mapping[str, AnyMachine]) -> None:
        """`machines` are the components by stream prefix."""
        self._events = events
        self._own = own
        self._machines = {machine.name: machine for machine in machines.values()}
        self._recordings: dict[str, ConfigurationRecorded] = {}
        self._absent_since: dict[str, float] = {}
        """Component → since when the configuration in force has no presence (monotonic seconds)."""

    def record(self, *components: str) -> list[str]:
        """Put our configuration of `components` (none: all that run here) in force; return those that changed.

        Two workers may do this at once: each stream is then advanced once more. Raises LogUnavailable.
        """
        return [component for component in components or tuple(self._machines) if self._record(component)]

    def record_first(self) -> list[str]:
        """Put our configuration in force of each component that has none yet; return those components.

        Raises LogUnavailable.
        """
        in_force = self._own.state().configurations
        return (
            self.record(*missing)
            if (missing := [component for component in self._machines if component not in in_force])
            else []
        )

    def outdated(self, component: str) -> bool:
        """Whether another configuration of `component` than ours is in force; False while none is.

        An event of a newer program in the data plane's own stream counts as another configuration. Raises
        LogUnavailable.
        """
        try:
            in_force = self._own.state().configurations.get(component)
        except FutureEvent:
            return True
        return in_force is not None and in_force != self._identity(component)

    def keep(self, component: str, now: float) -> None:
        """Announce that a worker of `component` with our configuration is present.

        If another configuration is in force, and has had no presence for ABSENCE seconds, ours replaces it. Each worker
        calls this every PRESENCE_EVERY seconds; `now` is monotonic seconds. Raises LogUnavailable.
        """
        in_force = self._own.state().configurations.get(component)
        if in_force is None or in_force == self._identity(component):
            self._absent_since.pop(component, None)
            self._record(component, instead_of=in_force)
        elif self._events.announced(_presence(component, in_force)):
            self._absent_since.pop(component, None)
        elif now - self._absent_since.setdefault(component, now) >= ABSENCE:
            log.warning("the configuration in force has no worker, recording ours", component=component)
            self._record(component, instead_of=in_force)

    def _ours(self, component: str) -> ConfigurationRecorded:
        if component not in self._recordings:
            self._recordings[component] = _recording(self._machines[component])
        return self._recordings[component]

    def _identity(self, component: str) -> str:
        ours = self._ours(component)
        return identity(ours.digest, ours.program)

    def _record(self, component: str, instead_of: str | EllipsisType | None = ...) -> bool:
        """Put our configuration in force, and mark every stream of the component dirty. Return whether this did either.

        Nothing is done if another configuration than `instead_of` is in force by now (...: done in any case).
        """
        ours, mine = self._ours(component), self._identity(component)
        # The presence comes first, so that no outdated worker finds the configuration in force without a worker.
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
