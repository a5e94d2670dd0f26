"""`agentplane adoption`: what would happen to Agent Servers that are there already. Reads the cluster, writes nothing.

It asks what the engine asks before it makes the first object of an LGP, by the same functions, and needs no Redis: so
it can be run before anything is installed, with the settings that the installation will have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.text import Text

from cli.output import FAILED, console, json_line, note
from cli.summaries import shorten_ids
from engine import bootstrap
from engine.errors import InvalidResource, ObjectRefused
from engine.listener import adoption, resource
from engine.log.memory import MemoryLog
from engine.names import LGP_API_VERSION, LGP_KIND
from engine.operator import lgp as lgps
from engine.operator import manifests
from engine.operator.adoption import discover
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted
from engine.operator.perform import config_digest
from engine.ports import ControlPlane, Manifest, Ports
from engine.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would happen to one LGP and its objects."""

    namespace: str
    lgp: str
    listener: str = ""
    """What our listener would do with the LGP; empty where it does not run."""
    stays: tuple[str, ...] = ()
    """Workloads whose pods go on as they are, by `str(key)`."""
    replaced: Mapping[str, tuple[str, ...]]
    """Workloads whose pods are replaced, each with the fields that are the reason."""
    database: str = ""
    secret: str = ""
    problem: str = ""
    """Why nothing would be changed at all."""


def show(*, json: bool) -> int:
    """Print what would happen to every LGP of the watched namespaces; return 1 where one would be refused."""
    settings = Settings.load()
    engine = bootstrap.build(settings, events=MemoryLog())
    try:
        wanted = _wanted(settings, engine.ports.control_plane) if settings.listener_enabled else None
        found = list(_forecasts(settings, engine.ports, wanted))
    finally:
        engine.close()
    for forecast in found:
        if json:
            json_line(asdict(forecast))
        else:
            _print(forecast)
    if not found:
        note(f"no LGPs in {', '.join(settings.watch_namespaces)}: nothing to take over")
    return FAILED if any(forecast.problem for forecast in found) else 0


def _print(forecast: Forecast) -> None:
    console.print(Text(f"{forecast.namespace}/{forecast.lgp}", style="bold"))
    if forecast.problem:
        _line("refused", forecast.problem, "red")  # its names are there to be copied
        return
    if forecast.listener:
        _line("LGP", shorten_ids(forecast.listener))
    for key in forecast.stays:
        _line("stays", shorten_ids(key), "green")
    for key, why in forecast.replaced.items():
        _line("replaced", f"{shorten_ids(key)}, for it differs in {', '.join(why)}", "yellow")
    if forecast.database:
        _line("database", f"StatefulSet {forecast.database}, password in Secret {forecast.secret}")


def _line(what: str, told: str, style: str = "") -> None:
    console.print(Text.assemble(f"    {what:<9} ", (told, style)))


def _wanted(settings: Settings, control_plane: ControlPlane) -> dict[str, resource.DeploymentResource]:
    """Return the deployments that the control plane has for this listener, by the id that names of LGPs end in.

    Raises ControlPlaneError.
    """
    found = {}
    config = bootstrap.listener_config(settings)
    for page in control_plane.deployments():
        for raw in page:
            if not resource.addressed_to(raw, config.listener_id, config.workspace_id):
                continue
            try:
                deployment = resource.parse_deployment(raw)
            except InvalidResource:
                continue
            if isinstance(deployment, resource.DeploymentResource):
                found[deployment.id.replace("-", "").lower()] = deployment
    return found


def _forecasts(
    settings: Settings, ports: Ports, wanted: Mapping[str, resource.DeploymentResource] | None
) -> Iterator[Forecast]:
    config = bootstrap.operator_config(settings) if settings.operator_enabled else None
    for namespace in settings.watch_namespaces:
        for live in ports.cluster.list(LGP_API_VERSION, LGP_KIND, namespace):
            yield _forecast(live, config, ports, wanted)


def _forecast(
    live: Manifest,
    config: OperatorConfig | None,
    ports: Ports,
    wanted: Mapping[str, resource.DeploymentResource] | None,
) -> Forecast:
    namespace, name = live["metadata"]["namespace"], live["metadata"]["name"]
    listener, anew = _of_listener(live, wanted) if wanted is not None else ("", False)
    adopted = Adopted()
    try:
        if config is not None:
            redacted = lgps.redact(live.get("spec") or {}, ports.digest)
            of_log = lgps.parse(namespace, name, live["metadata"]["uid"], redacted)
            if (off := manifests.why_refused(of_log, config)) is not None:
                return Forecast(namespace=namespace, lgp=name, listener=listener, replaced={}, problem=off)
            seen = discover.discover(lgps.read(live), of_log, live, config, config_digest(config), ports)
            adopted = seen.adopted or adopted
    except (InvalidResource, ObjectRefused) as error:
        return Forecast(namespace=namespace, lgp=name, listener=listener, replaced={}, problem=str(error))
    stays = tuple(key for key, one in adopted.objects.items() if one.template)
    replaced = {key: one.differences for key, one in adopted.objects.items() if one.differences}
    if anew:
        replaced = {**{key: ("the LGP",) for key in stays if not _is_store(key)}, **replaced}
        stays = tuple(key for key in stays if _is_store(key))
    database = adopted.database
    return Forecast(
        namespace=namespace,
        lgp=name,
        listener=listener,
        stays=stays,
        replaced=replaced,
        database=database.name if database else "",
        secret=database.secret if database else "",
    )


def _is_store(key: str) -> bool:
    """Whether a workload is Postgres or Redis: another revision asks for nothing new of those."""
    return key.startswith("StatefulSet ") or key.endswith("-redis")


def _of_listener(live: Manifest, wanted: Mapping[str, resource.DeploymentResource]) -> tuple[str, bool]:
    """Return what our listener would do with an LGP, and whether it would write it anew."""
    deployment: Any = next((one for end, one in wanted.items() if live["metadata"]["name"].endswith(f"-{end}")), None)
    if deployment is None:
        return "is left alone: no deployment of this listener", False
    if not adoption.is_foreign(live):
        return "is ours", False
    revision = deployment.latest_revision_id
    image = deployment.source_revision_config.image_uri
    why = list(adoption.differences(live.get("spec") or {}, image=image, revision_id=revision))
    if why:
        return f"is written anew for revision {revision}, for it differs in {', '.join(why)}", True
    return f"stays as it is: it asks for revision {revision}", False
