"""The command line: every command by name, with its flags. The work is in the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cli import adoption, history, leases, operating, processes, stack, status, uninstall
from cli import doctor as doctors
from cli.output import reporting

LOOK, DO, TRY, RUN = "Look", "Act", "Try it on this machine", "Processes of the data plane, in the foreground"
"""Headings of the help."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The data plane of the LangSmith hybrid model: what happens, and why.",
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("agentplane"))
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """The data plane of the LangSmith hybrid model: what happens, and why."""


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")]
Deployment = Annotated[str, typer.Argument(help="Name or id of a deployment, or the name of its LGP.")]
ClusterChoice = Annotated[
    stack.ClusterName,
    typer.Option(
        "--cluster", help="embedded, envtest (a real kube-apiserver) or current (the current kubeconfig context)."
    ),
]


@app.command("status", rich_help_panel=LOOK)
@reporting
def show_status(
    json: Json = False, deleted: Annotated[bool, typer.Option(help="Deleted deployments too.")] = False
) -> None:
    """Deployments: revision, phase, age, last reason. Ends with 1 when one of them failed."""
    raise typer.Exit(status.show(json=json, deleted=deleted))


@app.command("events", rich_help_panel=LOOK)
@reporting
def show_events(
    deployment: Annotated[str | None, typer.Argument(help="Name or id; everything when left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    json: Json = False,
) -> None:
    """What happened, by position: to one deployment (both components), or to everything."""
    history.events(deployment, follow=follow, json=json)


@app.command("replay", rich_help_panel=LOOK)
@reporting
def replay_log(
    file: Annotated[Path | None, typer.Argument(help="An exported log.", exists=True, dir_okay=False)] = None,
    live: Annotated[bool, typer.Option("--live", help="The installation's own log instead of a file.")] = False,
    transcript: Annotated[Path | None, typer.Option(help="Write states, decisions and manifests here.")] = None,
    through: Annotated[int | None, typer.Option(help="Stop after this position.")] = None,
    json: Json = False,
) -> None:
    """Replay a log: do today's code and the log agree? Ends with 1 where they do not."""
    if (file is None) == (not live):
        raise typer.BadParameter("give an exported FILE, or --live")
    raise typer.Exit(history.replay(file, transcript=transcript, through=through, json=json))


@app.command("export", rich_help_panel=LOOK)
@reporting
def export_log(
    file: Annotated[Path | None, typer.Argument(help="Where to; standard output when left out.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Only this deployment, both components.")] = None,
) -> None:
    """Write the log as JSON Lines. It holds no secret values."""
    history.export(file, deployment)


@app.command("import", rich_help_panel=DO)
@reporting
def import_log(file: Annotated[Path, typer.Argument(help="An exported log.", exists=True, dir_okay=False)]) -> None:
    """Add an exported log to the installation's. Refuses what is damaged or contradicts."""
    history.import_(file)


@app.command("doctor", rich_help_panel=LOOK)
@reporting
def check_everything(json: Json = False) -> None:
    """Check settings, control plane, Redis and cluster; each line ok, warn or fail, with the mend. 1 if one failed."""
    raise typer.Exit(doctors.doctor(json=json))


@app.command("adoption", rich_help_panel=LOOK)
@reporting
def forecast_adoption(json: Json = False) -> None:
    """What would happen to Agent Servers that another data plane made. Writes nothing. 1 if one would be refused."""
    raise typer.Exit(adoption.show(json=json))


@app.command("pause", rich_help_panel=DO)
@reporting
def pause(deployment: Deployment) -> None:
    """Hold back what the control plane asks for; what is deployed is still kept as it is."""
    operating.pause(deployment)


@app.command("resume", rich_help_panel=DO)
@reporting
def resume(deployment: Deployment) -> None:
    """Let a paused deployment follow the control plane again."""
    operating.resume(deployment)


@app.command("release-deletions", rich_help_panel=DO)
@reporting
def release_deletions(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it the deployments are only named.")] = False,
) -> None:
    """Let deletions go on that wait because they were too many at once."""
    raise typer.Exit(operating.release_deletions(yes=yes))


lease = typer.Typer(invoke_without_command=True, help="Which data plane each watched namespace belongs to.")
app.add_typer(lease, name="leases", rich_help_panel=DO)


@lease.callback()
@reporting
def show_claims(context: typer.Context, json: Json = False) -> None:
    """Which data plane each watched namespace belongs to. Ends with 1 where one is another's."""
    if context.invoked_subcommand is None:
        raise typer.Exit(leases.show(json=json))


@lease.command("take")
@reporting
def take_claim(namespace: Annotated[str, typer.Argument(help="A watched namespace.")]) -> None:
    """Take a namespace over from a data plane that is dead, once the term of its lease has passed."""
    leases.take(namespace)


@lease.command("release")
@reporting
def release_claim(
    namespace: Annotated[str | None, typer.Argument(help="A watched namespace; all when left out.")] = None,
) -> None:
    """Give leases back that are ours; data planes that run would lease them again."""
    leases.release(namespace)


@app.command("uninstall", rich_help_panel=DO)
@reporting
def remove(
    delete_agents: Annotated[
        bool, typer.Option("--delete-agents", help="Delete all Agent Servers, their databases included.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take it back: poll again, deploy what is listed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it the deployments are only named.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until all of them are gone.")] = 600.0,
) -> None:
    """Delete the Agent Servers before the data plane itself is removed; Helm alone would leave them running."""
    if cancel == delete_agents:
        raise typer.BadParameter("give --delete-agents, or --cancel")
    if cancel:
        uninstall.cancel()
    else:
        raise typer.Exit(uninstall.delete_agents(yes=yes, wait_seconds=wait))


@app.command("archive", rich_help_panel=DO)
@reporting
def archive(
    folder: Annotated[Path, typer.Argument(help="Where archives are kept.", exists=True, file_okay=False)],
    live_days: Annotated[
        float | None, typer.Option(min=0, help="Events of live deployments that are older; none when left out.")
    ] = None,
    gone_days: Annotated[
        float | None, typer.Option(min=0, help="All of what was deleted longer ago; none when left out.")
    ] = None,
) -> None:
    """Move old events out of the log into a file, which `import` takes back."""
    if live_days is None and gone_days is None:
        raise typer.BadParameter("say what is old: --live-days, --gone-days, or both")
    operating.archive(folder, live_days=live_days, gone_days=gone_days)


@app.command("up", rich_help_panel=TRY)
@reporting
def up(cluster: ClusterChoice = stack.ClusterName.EMBEDDED) -> None:
    """The whole system on this machine, in the foreground. Needs the sandbox extra."""
    raise typer.Exit(stack.up(cluster))


@app.command("demo", rich_help_panel=TRY)
@reporting
def demo(
    cluster: ClusterChoice = stack.ClusterName.EMBEDDED,
    keep: Annotated[bool, typer.Option(help="Keep state and logs also when all went well.")] = False,
) -> None:
    """The main job, end to end, with real clients. Needs the sandbox extra."""
    raise typer.Exit(stack.demo(cluster, keep=keep))


def _add_process(name: str, run: Callable[[list[str]], int], purpose: str) -> None:
    def become(context: typer.Context) -> None:
        raise typer.Exit(run(list(context.args)))

    # What follows the name is the process's own business, its --help too.
    passing = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(name, help=purpose, rich_help_panel=RUN, context_settings=passing)(reporting(become))


for _name, (_run, _purpose) in processes.PROCESSES.items():
    _add_process(_name, _run, _purpose)


def main() -> None:
    """Entry point of `agentplane`."""
    app()


if __name__ == "__main__":
    main()
