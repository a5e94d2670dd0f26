"""The data plane's own stream: one class reads it, appends to it and keeps its snapshot."""

from __future__ import annotations

from engine.dataplane.events import ListenerPublished, PollFailed, RemovalStarted
from engine.dataplane.stream import DataPlaneStream
from engine.log.memory import MemoryLog
from engine.runtime.fold import SNAPSHOT_EVERY

NAME = "dataplane/one"


def test_what_is_known_costs_no_read_and_follows_reads_and_appends() -> None:
    log = MemoryLog()
    ours, theirs = DataPlaneStream(log, NAME), DataPlaneStream(log, NAME)
    assert ours.known.published == ""

    theirs.append(ListenerPublished(version="1"))
    assert ours.known.published == "", "as of the last read"
    assert ours.state().published == ours.known.published == "1"

    ours.append(PollFailed(reason="503"), actor="poll")
    assert ours.known.poll_failure == "503"
    assert [record.actor for record in log.read(NAME)] == ["dataplane", "poll"]
    assert not log.work_token(NAME), "an append acknowledges the stream"


def test_an_append_whose_condition_does_not_hold_appends_nothing() -> None:
    log = MemoryLog()
    stream = DataPlaneStream(log, NAME)
    stream.append(RemovalStarted(by="ana"))

    assert not stream.append(PollFailed(reason="503"), only_if=lambda state: state.removing is None)
    assert log.version(NAME) == 1


def test_a_new_process_folds_from_a_snapshot() -> None:
    log = MemoryLog()
    stream = DataPlaneStream(log, NAME)
    for number in range(SNAPSHOT_EVERY + 1):
        stream.append(ListenerPublished(version=str(number)))

    snapshot = log.load_snapshot(NAME)
    assert snapshot is not None
    assert snapshot.version == SNAPSHOT_EVERY
    assert DataPlaneStream(log, NAME).state().published == str(SNAPSHOT_EVERY)
