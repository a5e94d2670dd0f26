"""The command line: every command with its options and help.

To add a command: write a module of its name in this folder (a function that prints and returns the exit code), and add
a function here with `@app.command(name, rich_help_panel=…)` and `@reporting`, which turns errors into exit code 2. The
docstring is the help text; it says when the command exits with 1. Then add the command to README.md and to the test
`test_help_names_every_command`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import structlog
import typer

from cli import (
    adoption,
    archive,
    events,
    export,
    leases,
    pause,
    processes,
    release_deletions,
    replay,
    sandbox,
    status,
    uninstall,
)
from cli.doctor import run as doctor
from cli.output import reporting

INSPECT, OPERATE, TRY, RUN = (
    "Inspect",
    "Operate",
    "Try it on this machine",
    "Processes of the data plane, in the foreground",
)
"""Headings of the help."""

HELP = """The data plane of the LangSmith hybrid model: see what it does and why, operate it, try it, run it.

Exits with 0 on success, 1 if something failed (each command says what), and 2 if the command could not run."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(version("agentplane"))
        raise typer.Exit


@app.callback(help=HELP)
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that come before the command; send warnings to stderr, because stdout is for results."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Deployment = Annotated[str, typer.Argument(help="Name or id of a deployment, or the name of its LGP.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without --yes the deployments are only listed.")]
Cluster = Annotated[
    sandbox.ClusterName,
    typer.Option(
        "--cluster",
        help="embedded (the sandbox's own), envtest (a real kube-apiserver) or current (the current kubeconfig "
        "context).",
    ),
]
ExportedLog = typer.Argument(help="A file that `agentplane export` or `archive` wrote.", exists=True, dir_okay=False)


# --- inspect


@app.command("status", rich_help_panel=INSPECT)
@reporting
def show_status(
    json: AsJson = False, deleted: Annotated[bool, typer.Option(help="Include deleted deployments.")] = False
) -> None:
    """List deployments with revision, phase, age and reason.

    Exits with 1 if a deployment failed, or if something is wrong with the data plane itself.
    """
    raise typer.Exit(status.show(json=json, deleted=deleted))


@app.command("events", rich_help_panel=INSPECT)
@reporting
def show_events(
    deployment: Annotated[
        str | None,
        typer.Argument(help="Name or id of a deployment, or the name of its LGP. Default: everything in the log."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new events until Ctrl-C.")] = False,
    json: AsJson = False,
) -> None:
    """Show the events of one deployment (listener and operator), or of all, in order."""
    events.show(deployment, follow=follow, json=json)


@app.command("replay", rich_help_panel=INSPECT)
@reporting
def replay_log(
    file: Annotated[Path | None, ExportedLog] = None,
    live: Annotated[bool, typer.Option("--live", help="Replay the installation's own log instead of a file.")] = False,
    transcript: Annotated[
        Path | None, typer.Option(help="Write every state, decision and manifest into this file.")
    ] = None,
    through: Annotated[int | None, typer.Option(min=0, help="Stop after this position of the log.")] = None,
    json: AsJson = False,
) -> None:
    """Replay a log, and check that the current code decides as the log recorded. Exits with 1 if it does not."""
    if (file is None) == (not live):
        raise typer.BadParameter("give either an exported FILE or --live")
    raise typer.Exit(replay.replay(file, transcript=transcript, through=through, json=json))


@app.command("export", rich_help_panel=INSPECT)
@reporting
def export_log(
    file: Annotated[Path | None, typer.Argument(help="File to write. Default: standard output.")] = None,
    deployment: Annotated[
        str | None,
        typer.Option(
            help="Export only this deployment (listener and operator), by name or id, and the data plane's own events, "
            "which a replay needs."
        ),
    ] = None,
) -> None:
    """Write the event log as JSON Lines. The log holds no secret values."""
    export.export(file, deployment)


@app.command("doctor", rich_help_panel=INSPECT)
@reporting
def check_everything(json: AsJson = False) -> None:
    """Check settings, control plane, Redis, workers, cluster and hostname.

    Each check is ok, warn or fail, with a fix; or skip. Exits with 1 if any check failed.
    """
    raise typer.Exit(doctor.doctor(json=json))


@app.command("adoption", rich_help_panel=INSPECT)
@reporting
def forecast_adoption(json: AsJson = False) -> None:
    """Show how the Agent Servers of another data plane would be adopted. Writes nothing.

    Exits with 1 if the adoption of one of them would be refused.
    """
    raise typer.Exit(adoption.show(json=json))


# --- operate


@app.command("import", rich_help_panel=OPERATE)
@reporting
def import_log(file: Annotated[Path, ExportedLog]) -> None:
    """Add an exported log to the installation's log. Rejects files that are damaged or that conflict with the log."""
    export.import_(file)


@app.command("pause", rich_help_panel=OPERATE)
@reporting
def pause_deployment(deployment: Deployment) -> None:
    """Ignore new revisions of this deployment. The running one is still repaired."""
    pause.pause(deployment)


@app.command("resume", rich_help_panel=OPERATE)
@reporting
def resume_deployment(deployment: Deployment) -> None:
    """Let a paused deployment follow the control plane again, and retry its failed acts at once."""
    pause.resume(deployment)


@app.command("release-deletions", rich_help_panel=OPERATE)
@reporting
def release_waiting_deletions(yes: Yes = False) -> None:
    """Let deletions proceed that are on hold because they were too many at once.

    Exits with 1 if deletions are on hold and --yes is not given.
    """
    raise typer.Exit(release_deletions.release_deletions(yes=yes))


lease = typer.Typer(invoke_without_command=True)
app.add_typer(lease, name="leases", rich_help_panel=OPERATE)


@lease.callback()
@reporting
def show_leases(context: typer.Context, json: AsJson = False) -> None:
    """Show which data plane holds each watched namespace. Exits with 1 if another data plane holds one of them."""
    if context.invoked_subcommand is None:
        raise typer.Exit(leases.show(json=json))


@lease.command("take")
@reporting
def take_lease(namespace: Annotated[str, typer.Argument(help="A watched namespace.")]) -> None:
    """Take the lease on a namespace from a data plane that is gone. Refused until that lease has expired."""
    leases.take(namespace)


@lease.command("release")
@reporting
def release_leases(
    namespace: Annotated[
        str | None, typer.Argument(help="A watched namespace. Default: all watched namespaces.")
    ] = None,
) -> None:
    """Release the leases that this data plane holds. Stop its processes first, or they take the leases again."""
    leases.release(namespace)


@app.command("uninstall", rich_help_panel=OPERATE)
@reporting
def remove(
    delete_agents: Annotated[
        bool, typer.Option("--delete-agents", help="Delete all Agent Servers, including their databases.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the removal and resume polling.")] = False,
    yes: Yes = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until all of them are gone.")] = 600.0,
) -> None:
    """Delete the Agent Servers before you remove the data plane. `helm uninstall` alone leaves them running.

    Exits with 1 if --yes is not given, or if an Agent Server is still there after the wait.
    """
    if cancel == delete_agents:
        raise typer.BadParameter("give either --delete-agents or --cancel")
    if cancel:
        uninstall.cancel()
    else:
        raise typer.Exit(uninstall.delete_agents(yes=yes, wait_seconds=wait))


@app.command("archive", rich_help_panel=OPERATE)
@reporting
def archive_events(
    folder: Annotated[Path, typer.Argument(help="Folder for the archive file.", exists=True, file_okay=False)],
    live_days: Annotated[
        float | None,
        typer.Option(min=0, help="Move events of live deployments older than this many days. Default: none."),
    ] = None,
    gone_days: Annotated[
        float | None,
        typer.Option(min=0, help="Move all events of deployments deleted more than this many days ago. Default: none."),
    ] = None,
) -> None:
    """Move old events out of the log into a file; an import into an empty log puts them back.

    For that, write the archives and then an export into one file, and import that file.
    """
    if live_days is None and gone_days is None:
        raise typer.BadParameter("give --live-days, --gone-days or both")
    archive.archive(folder, live_days=live_days, gone_days=gone_days)


# --- try


@app.command("up", rich_help_panel=TRY)
@reporting
def up(cluster: Cluster = sandbox.ClusterName.EMBEDDED) -> None:
    """Run the whole system on this machine, in the foreground. Needs the sandbox extra."""
    raise typer.Exit(sandbox.up(cluster))


@app.command("demo", rich_help_panel=TRY)
@reporting
def demo(
    cluster: Cluster = sandbox.ClusterName.EMBEDDED,
    keep: Annotated[bool, typer.Option(help="Keep state and logs even if every step succeeds.")] = False,
) -> None:
    """Deploy, update and delete an agent on this machine with real clients. Needs the sandbox extra.

    Exits with 1 if a step failed.
    """
    raise typer.Exit(sandbox.demo(cluster, keep=keep))


# --- run


def _add_process(name: str, run: Callable[[list[str]], int], purpose: str) -> None:
    def become(context: typer.Context) -> None:
        raise typer.Exit(run(list(context.args)))

    # Arguments after the name are for the process itself, also --help.
    passing = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(name, help=purpose, rich_help_panel=RUN, context_settings=passing)(reporting(become))


for _name, (_run, _purpose) in processes.PROCESSES.items():
    _add_process(_name, _run, _purpose)


def main() -> None:
    """Entry point of `agentplane`."""
    app()


if __name__ == "__main__":
    main()
