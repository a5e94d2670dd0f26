"""The command line as a platform engineer types it, against a real Redis: output and exit codes.

Tests of pipes, signals and full disks run the command in a separate process.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.dataplane.events import (
    ConfigurationRecorded,
    DeletionGuardTripped,
    PollFailed,
    PollRecovered,
    ResourceRejected,
)
from engine.event import Event
from engine.kubernetes.fingerprint import Fingerprint
from engine.listener.events import (
    DeletionRequested,
    DeploymentDeleted,
    LgpApplied,
    Paused,
    Resumed,
    RevisionDeployed,
    RevisionFailed,
    SecretsApplied,
)
from engine.log.export import export_log
from engine.names import data_plane_stream, deployment_stream, lgp_name, lgp_stream
from engine.operator.events import LgpObserved, LgpRemoved
from engine.runtime.backoff import ActDeferred, ActRefused
from sandbox.ports import free_port
from sandbox.redis import RedisServer
from tests.support.command_line import HELLO, IMAGE, PATIENCE, Agentplane, lines
from tests.support.eventually import eventually

OTHER = "00000000-8b48-4b1c-8bc8-eb08c3462c01"
ENGINE = data_plane_stream("11111111-1111-4111-8111-111111111111")


@pytest.fixture
def agentplane(redis_url: str, prefix: str) -> Iterator[Agentplane]:
    installation = Agentplane(redis_url, prefix)
    yield installation
    installation.events.close()


# --- help


def test_help_names_every_command(agentplane: Agentplane) -> None:
    output = agentplane.run("--help").stdout
    for command in (
        "status", "events", "replay", "export", "import", "archive", "doctor", "pause", "resume", "release-deletions",
        "up", "demo", "beat", "listener", "operator", "watcher", "flower",
    ):  # fmt: skip
        assert f" {command} " in output, command


@pytest.mark.parametrize("process", ["beat", "listener", "operator", "watcher", "flower"])
def test_a_process_names_its_missing_settings(agentplane: Agentplane, process: str) -> None:
    assert "AGENTPLANE_LISTENER_ID is not set" in agentplane.run(process, code=2).stderr


@pytest.mark.parametrize("process", ["beat", "listener", "watcher"])
def test_a_process_has_help_of_its_own(agentplane: Agentplane, process: str) -> None:
    assert "usage:" in agentplane.run(process, "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("events", "--nope"),
        ("replay",),
        ("replay", "/no/such/file"),
        ("import",),
        ("archive", "/no/such/folder"),
    ],
)
def test_invalid_arguments_exit_with_2(agentplane: Agentplane, arguments: Sequence[str]) -> None:
    agentplane.run(*arguments, code=2)


# --- status


def test_status_of_an_empty_log(agentplane: Agentplane) -> None:
    assert agentplane.run("status").stdout == (
        "no deployments yet\n0 deployments; 0 deployments are waiting for a worker; last position 0\n"
    )


def test_status_exits_with_0_without_problems(agentplane: Agentplane) -> None:
    stream = agentplane.deployment()
    agentplane.append(
        stream,
        SecretsApplied(revision_id="revision-of-hello", secret="s", digest="s"),
        applied_lgp("revision-of-hello"),
        RevisionDeployed(revision_id="revision-of-hello"),
    )

    heads, row, summary = agentplane.run("status").stdout.splitlines()
    (view, *_) = lines(agentplane.run("status", "--json"))

    assert heads.split() == ["DEPLOYMENT", "NAMESPACE", "STATUS", "REVISION", "PHASE", "AGE", "REASON"]
    assert row.split()[:5] == ["hello", "agents", "AWAITING_DATABASE", "revision", "DEPLOYED"]
    assert summary == "1 deployment; 1 deployment is waiting for a worker; last position 5"
    assert view["kind"] == "deployment"
    assert (view["id"], view["phase"], view["serving"], view["failed"]) == (
        HELLO, "DEPLOYED", "revision-of-hello", False,
    )  # fmt: skip


def applied_lgp(revision: str) -> LgpApplied:
    return LgpApplied.model_validate(
        {
            "revision_id": revision,
            "manifest_digest": "m",
            "fingerprint": {"uid": "u", "generation": 1, "fields": "f"},
            "created": True,
        }
    )


def test_status_shows_why_a_revision_failed_and_exits_with_1(agentplane: Agentplane) -> None:
    agentplane.append(
        agentplane.deployment(),
        RevisionFailed(revision_id="revision-of-hello", reason="ImagePullBackOff", message="no such image\nand more"),
    )

    assert "DEPLOY_FAILED" in agentplane.run("status", code=1).stdout
    assert "ImagePullBackOff: no such image\n" in agentplane.run("status", code=1).stdout


def test_status_shows_that_a_failed_revision_was_stopped(agentplane: Agentplane) -> None:
    stopped = LgpApplied(
        revision_id="revision-of-hello",
        manifest_digest="d",
        fingerprint=Fingerprint(uid="u", generation=2, fields="f"),
        created=False,
        stopped=True,
    )
    crashed = RevisionFailed(revision_id="revision-of-hello", reason="CrashLoopBackOff", message="exit code 3")
    agentplane.append(agentplane.deployment(), crashed, stopped)

    assert "DEPLOY_FAILED (stopped)" in agentplane.run("status", code=1).stdout
    assert "LGP scaled to zero" in agentplane.run("events", "hello").stdout


def test_status_shows_why_an_act_keeps_failing(agentplane: Agentplane) -> None:
    """Temporary failures change no phase: without the reason, `status` would show only QUEUED."""
    retry = datetime.now(UTC) + timedelta(seconds=9)
    agentplane.append(
        agentplane.deployment(),
        ActDeferred(act="ApplySecrets", attempt=4, reason="no answer from https://10.0.0.1", retry_at=retry),
    )

    assert "ApplySecrets fails (attempt 4): no answer from https://10.0.0.1" in agentplane.run("status").stdout


def test_an_act_that_is_refused_is_a_failure(agentplane: Agentplane) -> None:
    agentplane.append(agentplane.deployment(), ActRefused(act="ApplyLgp", reason="forbidden"))

    assert "ApplyLgp is refused: forbidden" in agentplane.run("status", code=1).stdout


def test_an_lgp_of_another_client_is_shown_too(agentplane: Agentplane) -> None:
    agentplane.append(
        lgp_stream("agents", "foreign"),
        LgpObserved(
            namespace="agents", name="foreign", uid="u", generation=1, deleting=False, revision="", deployment_id="",
            spec={"serverSpec": {"image": IMAGE}}, digest="d",
        ),
    )  # fmt: skip

    (view,) = lines(agentplane.run("status", "--json"))

    assert (view["name"], view["id"], view["status"], view["image"]) == ("foreign", "", "PRESENT", IMAGE)
    assert "LgpObserved" in agentplane.run("events", "foreign").stdout
    assert "an LGP that this listener did not write" in agentplane.run("pause", "foreign", code=2).stderr


def test_status_shows_problems_of_the_data_plane_itself(agentplane: Agentplane) -> None:
    agentplane.append(
        ENGINE,
        PollFailed(reason="503 from the control plane"),
        ResourceRejected(resource="deployment x", field="name", problem="is missing"),
        DeletionGuardTripped(deployments=("a", "b"), live=2),
    )

    output = agentplane.run("status", code=1).stdout
    (plane,) = lines(agentplane.run("status", "--json", code=1))

    assert f"{ENGINE}: polling fails: 503 from the control plane" in output
    assert f"{ENGINE}: deployment x is skipped: name: is missing" in output
    assert "2 deletions on hold, because they are too many at once: see `agentplane release-deletions`" in output
    assert plane["kind"] == "data plane"
    assert len(plane["problems"]) == 3


def test_a_stream_of_a_newer_program_hides_no_other(agentplane: Agentplane) -> None:
    class OfTheFuture(Event):
        what: str

    agentplane.deployment()
    agentplane.append(agentplane.deployment(OTHER, "newer"), OfTheFuture(what="x"))

    hello, newer, *_ = lines(agentplane.run("status", "--json", code=1))

    assert (hello["name"], hello["reason"]) == ("hello", "")
    assert newer["name"] == "newer"
    assert "does not know events of type 'OfTheFuture'" in newer["reason"]
    assert "what=x" in agentplane.run("events", "newer").stdout


def test_a_narrow_terminal_gets_the_reason_on_lines_of_its_own(agentplane: Agentplane) -> None:
    agentplane.append(
        agentplane.deployment(),
        RevisionFailed(revision_id="revision-of-hello", reason="Why", message="because " * 20),
    )

    output = agentplane.run("status", code=1, COLUMNS="80").stdout

    assert max(map(len, output.splitlines())) <= 80
    assert "\n    Why: because" in output


# --- events


def test_the_timeline_of_one_deployment_has_both_components(agentplane: Agentplane) -> None:
    stream = agentplane.deployment()
    agentplane.deployment(OTHER, "other")
    agentplane.append(lgp_stream("agents", lgp_name("hello", HELLO)), LgpRemoved())
    agentplane.append(stream, RevisionDeployed(revision_id="revision-of-hello"))

    title, heads, *rows = agentplane.run("events", "hello").stdout.splitlines()

    assert title == f"hello ({HELLO}) in agents, LGP {lgp_name('hello', HELLO)}"
    assert heads.split() == ["POS", "TIME", "(UTC)", "STREAM", "V", "ACTOR", "EVENT", "WHAT"]
    assert [row.split()[2] for row in rows] == ["deployment", "deployment", "lgp", "deployment"]
    assert rows[1].endswith("revision revision-of-hello, registry.example/hello@sha256:55555555…, 1 secret")
    for known in (HELLO, lgp_name("hello", HELLO)):
        assert agentplane.run("events", known).stdout.splitlines()[0] == title


def test_the_timeline_of_everything_names_deployments(agentplane: Agentplane) -> None:
    agentplane.append(ENGINE, PollRecovered())
    agentplane.deployment()

    streams = [row.split()[2] for row in agentplane.run("events").stdout.splitlines()[1:]]

    assert streams == ["dataplane", "deployment/hello", "deployment/hello"]


def test_every_row_is_a_line_and_fits_a_narrow_terminal_when_asked(agentplane: Agentplane) -> None:
    agentplane.append(
        agentplane.deployment(),
        RevisionFailed(revision_id="revision-of-hello", reason="Why", message="long " * 60),
    )

    assert len(agentplane.run("events", "hello").stdout.splitlines()) == 5
    narrow = agentplane.run("events", "hello", COLUMNS="80").stdout.splitlines()
    assert max(map(len, narrow[1:])) <= 80
    assert "\x1b" not in "".join(narrow)


def test_json_lines_are_those_of_an_export(agentplane: Agentplane) -> None:
    agentplane.deployment()

    output = agentplane.run("events", "--json").stdout

    assert output.encode() == b"".join(list(export_log(agentplane.events))[1:])


def test_a_deleted_deployment_still_has_its_timeline(agentplane: Agentplane) -> None:
    agentplane.append(agentplane.deployment(), DeletionRequested(reason="AWAITING_DELETE"), DeploymentDeleted())

    assert "DeploymentDeleted" in agentplane.run("events", "hello").stdout
    assert "no live deployments (1 deleted; see --deleted)" in agentplane.run("status").stdout
    assert "DELETED" in agentplane.run("status", "--deleted").stdout
    assert "is deleted" in agentplane.run("pause", "hello", code=2).stderr


def test_of_several_deployments_of_one_name_the_live_one_is_shown_and_the_others_named(agentplane: Agentplane) -> None:
    agentplane.append(agentplane.deployment(), DeletionRequested(reason="gone"), DeploymentDeleted())
    agentplane.deployment(OTHER, "hello")

    done = agentplane.run("events", "hello")

    assert done.stdout.startswith(f"hello ({OTHER})")
    assert f"another deployment of this name: {HELLO} (deleted)" in done.stderr


def test_an_unknown_deployment_names_the_known_ones(agentplane: Agentplane) -> None:
    agentplane.deployment()

    output = agentplane.run("events", "helo", code=2).stderr

    assert output == "error: the log has no deployment 'helo' (live ones: hello)\n"


def test_a_closed_pipe_ends_the_command_quietly(agentplane: Agentplane) -> None:
    for _ in range(50):
        agentplane.append(ENGINE, *[PollFailed(reason="x" * 500)] * 20)

    for arguments in ("events", "events --json", "export"):
        output = agentplane.shell(f"agentplane {arguments} | head -2 >/dev/null; echo ${{PIPESTATUS[0]}}")
        assert output == "141\n", arguments


def test_following_goes_on_until_ctrl_c(agentplane: Agentplane, tmp_path: Path) -> None:
    stream = agentplane.deployment()
    agentplane.deployment(OTHER, "other")
    printed = tmp_path / "printed"
    following = agentplane.start("events", "hello", "--follow", stdout=printed)
    eventually(lambda: "RevisionRequested" in printed.read_text(), "what was before is output")

    agentplane.append(deployment_stream(OTHER), Paused(by="ada"))
    agentplane.append(stream, Resumed(by="grace"))
    eventually(lambda: "grace" in printed.read_text(), "what comes is output")
    following.send_signal(signal.SIGINT)

    assert following.wait(PATIENCE) == 0
    assert "ada" not in printed.read_text()
    assert printed.read_text().count("DeploymentRegistered") == 1
    assert "Traceback" not in printed.read_text()


def test_following_survives_a_restart_of_redis(prefix: str, tmp_path: Path) -> None:
    with RedisServer() as server:
        agentplane = Agentplane(server.url, prefix)
        stream = agentplane.deployment()
        printed = tmp_path / "printed"
        following = agentplane.start("events", "--follow", "--json", stdout=printed)
        eventually(lambda: printed.read_text().count("\n") == 2, "what was before is output")

        server.stop()
        time.sleep(0.5)
        server.start()
        agentplane.append(stream, Paused(by="ada"))

        eventually(lambda: printed.read_text().count("\n") == 3, "what comes after the restart is output")
        following.terminate()
        following.wait(PATIENCE)
        assert [json.loads(line)["type"] for line in printed.read_text().splitlines()][-1] == "Paused"


# --- an unreachable Redis, and wrong settings


@pytest.mark.parametrize("arguments", [("status",), ("events",), ("export",), ("replay", "--live"), ("pause", "hello")])
def test_an_unreachable_redis(prefix: str, arguments: Sequence[str]) -> None:
    output = Agentplane(f"redis://:hunter2@127.0.0.1:{free_port()}/0", prefix).run(*arguments, code=2).stderr

    assert output.startswith("error: Cannot reach Redis at 127.0.0.1:")
    assert output.endswith(" (connection refused). Start Redis, or correct AGENTPLANE_REDIS_URL.\n")
    assert "hunter2" not in output


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:6379", "must start with redis:// or rediss://"),
        ("redis://127.0.0.1:abc/0", "a port must be from 1 to 65535"),
        ("redis://127.0.0.1:99999/0", "a port must be from 1 to 65535"),
        ("redis://127.0.0.1:6379/zero", "the number of a database"),
        ("redis:///0", "must name a host"),
    ],
)
def test_an_invalid_redis_url(redis_url: str, prefix: str, url: str, why: str) -> None:
    output = Agentplane(redis_url, prefix).run("status", code=2, AGENTPLANE_REDIS_URL=url).stderr

    assert output.startswith("error: AGENTPLANE_REDIS_URL")
    assert why in output


def test_commands_that_read_events_need_no_other_settings(agentplane: Agentplane) -> None:
    agentplane.run("status", AGENTPLANE_LISTENER_ID="")
    output = agentplane.run("status", code=2, AGENTPLANE_LOG_LEVEL="loud").stderr
    assert "AGENTPLANE_LOG_LEVEL='loud'" in output


# --- replay, export, import


@pytest.fixture
def exported(agentplane: Agentplane, tmp_path: Path) -> Path:
    agentplane.append(
        ENGINE,
        ConfigurationRecorded(component="listener", digest="x", config=LISTENER_CONFIG),
    )
    agentplane.deployment()
    agentplane.deployment(OTHER, "other")
    file = tmp_path / "log.jsonl"
    agentplane.run("export", str(file))
    return file


LISTENER_CONFIG = {
    "listener_id": "l", "workspace_id": "w", "namespaces": ["agents"], "smith_url": "http://smith",
}  # fmt: skip


def test_an_export_is_whole_and_its_replay_agrees(agentplane: Agentplane, exported: Path, tmp_path: Path) -> None:
    assert exported.read_bytes() == b"".join(export_log(agentplane.events))
    assert agentplane.run("export").stdout.encode() == exported.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]

    (replayed,) = lines(agentplane.run("replay", str(exported), "--json", "--transcript", str(tmp_path / "t")))
    (live,) = lines(agentplane.run("replay", "--live", "--json"))

    assert replayed == live
    assert (replayed["events"], replayed["divergences"]) == (5, [])
    assert (tmp_path / "t").read_bytes().count(b"\n") == 5 + 2
    assert "all agree with the log" in agentplane.run("replay", str(exported)).stdout


def test_the_export_of_one_deployment_can_be_replayed(agentplane: Agentplane, exported: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.jsonl"
    agentplane.run("export", str(part), "--deployment", "hello")

    (replayed,) = lines(agentplane.run("replay", str(part), "--json"))

    assert (replayed["events"], replayed["streams"]) == (3, 1)


def test_a_log_that_was_tampered_with_diverges(agentplane: Agentplane, tmp_path: Path) -> None:
    agentplane.append(ENGINE, ConfigurationRecorded(component="listener", digest="x", config=LISTENER_CONFIG))
    stream = agentplane.deployment()
    agentplane.events.append(
        stream, 2, [RevisionDeployed(revision_id="revision-of-hello")], actor="listener", cause="CompleteRevision"
    )
    file = tmp_path / "log.jsonl"
    agentplane.run("export", str(file))

    done = agentplane.run("replay", str(file), code=1)

    assert f"{stream} version 3: RevisionDeployed was caused by CompleteRevision" in done.stderr
    assert "1 divergence" in done.stdout


def test_an_import_into_another_installation(
    exported: Path, redis_url: str, prefix: str, agentplane: Agentplane
) -> None:
    other = Agentplane(redis_url, f"{prefix}-2")

    assert other.run("import", str(exported)).stdout == "added 5 events; 0 were already there\n"
    assert other.run("import", str(exported)).stdout == "added 0 events; 5 were already there\n"
    assert other.run("export").stdout.encode() == exported.read_bytes()


DAMAGE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "cut in a line": (lambda kept: [*kept[:-1], kept[-1][:40]], "line 6: is not JSON"),
    "a line is missing": (lambda kept: [*kept[:2], *kept[3:]], "cannot follow version 0"),
    "changed by hand": (lambda kept: [kept[0], kept[1].replace(b":", b": ", 1), *kept[2:]], "is not canonical JSON"),
    "no log at all": (lambda kept: [b"hello\n"], "line 1: is not JSON"),
    "binary": (lambda kept: [b"\xff\xfe\x00\x01\n"], "line 1: is not JSON"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_export_is_refused_whole(
    agentplane: Agentplane, exported: Path, redis_url: str, prefix: str, damage: str
) -> None:
    spoil, why = DAMAGE[damage]
    exported.write_bytes(b"".join(spoil(exported.read_bytes().splitlines(keepends=True))))
    other = Agentplane(redis_url, f"{prefix}-2")

    for command in (("import", str(exported)), ("replay", str(exported))):
        assert why in other.run(*command, code=2).stderr
    assert other.events.head() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for a full disk")
def test_a_full_disk(agentplane: Agentplane, exported: Path, tmp_path: Path) -> None:
    assert "No space left on device" in agentplane.run("export", "/dev/full", code=2).stderr
    for command in ("export", "events", "status", "events --json"):
        output = agentplane.shell(f"agentplane {command} > /dev/full; echo $?")
        assert output.splitlines()[-1] == "2" or output.splitlines()[0] == "2", output
        assert "No space left on device" in output


def test_an_export_that_does_not_fit_leaves_the_earlier_one(agentplane: Agentplane, exported: Path) -> None:
    before = exported.read_bytes()
    agentplane.append(ENGINE, *[PollFailed(reason="x" * 1000)] * 20)

    # Without bytecode: the size limit would truncate a compiled file, and a truncated file breaks later imports.
    command = f"ulimit -f 4; PYTHONDONTWRITEBYTECODE=1 agentplane export {exported}; echo $?"
    output = agentplane.shell(command)

    assert "File too large" in output
    assert exported.read_bytes() == before
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


def test_a_device_is_written_rather_than_replaced(agentplane: Agentplane, exported: Path) -> None:
    output = agentplane.shell("agentplane export /dev/stdout | tail -1")

    assert output.encode() == exported.read_bytes().splitlines(keepends=True)[-1]


@pytest.mark.parametrize("arguments", [("export", "/no/such/folder/log"), ("export", "/")])
def test_an_export_to_an_unwritable_path(agentplane: Agentplane, arguments: Sequence[str]) -> None:
    assert agentplane.run(*arguments, code=2).stderr.startswith("error: /")


# --- pause, resume, release-deletions


def test_pausing_and_resuming(agentplane: Agentplane) -> None:
    stream = agentplane.deployment()

    assert "hello is paused;" in agentplane.run("pause", "hello").stdout
    assert "already paused" in agentplane.run("pause", HELLO).stdout
    assert "(paused)" in agentplane.run("status").stdout
    assert agentplane.run("resume", "hello").stdout == "hello is resumed\n"
    assert "was not paused; its failed acts are tried again now" in agentplane.run("resume", "hello").stdout

    records = agentplane.events.read(stream, after=2)
    assert [(record.type, record.actor) for record in records] == [
        ("Paused", "cli"), ("Resumed", "cli"), ("Resumed", "cli"),
    ]  # fmt: skip


def test_of_two_live_deployments_of_one_name_neither_is_paused(agentplane: Agentplane) -> None:
    agentplane.deployment()
    agentplane.deployment(OTHER, "hello")

    output = agentplane.run("pause", "hello", code=2).stderr

    assert HELLO in output
    assert OTHER in output
    assert "paused" in agentplane.run("pause", OTHER).stdout


def test_deletions_are_named_before_they_are_released(agentplane: Agentplane) -> None:
    agentplane.deployment()
    assert agentplane.run("release-deletions").stdout == "no deletions are waiting\n"
    agentplane.append(ENGINE, DeletionGuardTripped(deployments=(HELLO,), live=1))

    output = agentplane.run("release-deletions", code=1).stdout
    assert f"{ENGINE}: hello ({HELLO})" in output
    assert "--yes" in output
    assert agentplane.events.version(ENGINE) == 1

    agentplane.run("release-deletions", "--yes")
    released = agentplane.events.read(ENGINE)[-1]
    assert (released.type, released.data["deployments"]) == ("DeletionGuardReleased", [HELLO])
    assert agentplane.run("release-deletions").stdout == "no deletions are waiting\n"


# --- doctor, as a command


def test_the_doctor_exits_with_1_and_reports_in_json(agentplane: Agentplane) -> None:
    output = agentplane.run("doctor", code=1).stdout
    findings = lines(agentplane.run("doctor", "--json", code=1))

    assert "fail settings: AGENTPLANE_LANGSMITH_API_KEY is not set" in output
    assert {"level", "subject", "detail", "fix"} == findings[0].keys()
    assert findings[0]["level"] == "fail"
    assert output.splitlines()[-1] == f"0 ok, 0 warn, {len(findings) - 1} fail, 1 skip"
