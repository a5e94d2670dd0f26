"""`agentplane adoption`: shows how the data plane would adopt the Agent Servers of another one. It writes nothing.

The command asks the functions that the operator asks before it makes the first object of an LGP. It needs no Redis, so
it can be run before anything is installed, with the settings that the installation will have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from rich.text import Text

from cli.output import FAILED, console, json_line, note
from cli.summaries import shorten_ids
from engine import bootstrap
from engine.errors import InvalidResource, ObjectRefused
from engine.listener import adoption, resource
from engine.log.memory import MemoryLog
from engine.names import LGP_API_VERSION, LGP_KIND
from engine.operator import manifests
from engine.operator.adoption.discover import Adoption, discover
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted
from engine.operator.lgp import parse_lgp, redact_spec
from engine.ports import ControlPlane, Manifest, Ports
from engine.settings import Settings

Deployments = Mapping[str, resource.DeploymentResource]
"""The deployments that the control plane has for this listener, by the id at the end of their LGP's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would happen to one LGP and its objects."""

    namespace: str
    lgp: str
    listener: str = ""
    """What our listener would do with the LGP; empty where our listener does not run."""
    stays: tuple[str, ...] = ()
    """Workloads whose pods stay as they are, by `str(key)`."""
    replaced: Mapping[str, tuple[str, ...]]
    """Workloads whose pods are replaced, each with the fields that differ."""
    database: str = ""
    """StatefulSet of the database that is adopted; empty for none."""
    secret: str = ""
    """Secret with the password of that database."""
    problem: str = ""
    """Why the LGP would be refused, with nothing changed; empty when it would not."""


def show(*, json: bool) -> int:
    """Print what would happen to every LGP of the watched namespaces; return 1 if one of them would be refused."""
    settings = Settings.load()
    engine = bootstrap.build(settings, events=MemoryLog())
    try:
        listed = _listed(settings, engine.ports.control_plane) if settings.listener_enabled else None
        found = list(_forecasts(settings, engine.ports, listed))
    finally:
        engine.close()
    for forecast in found:
        if json:
            json_line(asdict(forecast))
        else:
            _print(forecast)
    if not found:
        note(f"no LGPs in {', '.join(settings.watch_namespaces)}: nothing to adopt")
    return FAILED if any(forecast.problem for forecast in found) else 0


def _print(forecast: Forecast) -> None:
    console.print(Text(f"{forecast.namespace}/{forecast.lgp}", style="bold"))
    if forecast.problem:
        _line("refused", forecast.problem, "red")  # with whole names, so that they can be copied
        return
    if forecast.listener:
        _line("LGP", shorten_ids(forecast.listener))
    for key in forecast.stays:
        _line("stays", shorten_ids(key), "green")
    for key, fields in forecast.replaced.items():
        _line("replaced", f"{shorten_ids(key)}, because of differences in {', '.join(fields)}", "yellow")
    if forecast.database:
        _line("database", f"StatefulSet {forecast.database}, password in Secret {forecast.secret}")


def _line(subject: str, text: str, style: str = "") -> None:
    console.print(Text.assemble(f"    {subject:<9} ", (text, style)))


def _listed(settings: Settings, control_plane: ControlPlane) -> Deployments:
    """Return the deployments that the control plane has for this listener. Raises ControlPlaneError."""
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


def _forecasts(settings: Settings, ports: Ports, listed: Deployments | None) -> Iterator[Forecast]:
    config = bootstrap.operator_config(settings) if settings.operator_enabled else None
    for namespace in settings.watch_namespaces:
        for live in ports.cluster.list(LGP_API_VERSION, LGP_KIND, namespace):
            yield _forecast(live, config, ports, listed)


def _forecast(live: Manifest, config: OperatorConfig | None, ports: Ports, listed: Deployments | None) -> Forecast:
    namespace, name = live["metadata"]["namespace"], live["metadata"]["name"]
    listener, rewritten = _by_listener(live, listed) if listed is not None else ("", False)
    adopted = Adopted()
    try:
        if config is not None:
            redacted = redact_spec(live.get("spec") or {}, ports.digest)
            of_log = parse_lgp(namespace, name, live["metadata"]["uid"], redacted)
            if (refusal := manifests.why_refused(of_log, config)) is not None:
                return Forecast(namespace=namespace, lgp=name, listener=listener, replaced={}, problem=refusal)
            found = discover(Adoption(live=live, redacted=of_log, config=config, ports=ports))
            adopted = found.adopted or adopted
    except (InvalidResource, ObjectRefused) as error:
        return Forecast(namespace=namespace, lgp=name, listener=listener, replaced={}, problem=str(error))
    stays = tuple(key for key, one in adopted.objects.items() if one.template_digest)
    replaced = {key: one.differences for key, one in adopted.objects.items() if one.differences}
    if rewritten:
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
    """Return whether a workload is Postgres or Redis: another revision changes nothing in those."""
    return key.startswith("StatefulSet ") or key.endswith("-redis")


def _by_listener(live: Manifest, listed: Deployments) -> tuple[str, bool]:
    """Return what our listener would do with an LGP, and whether it would rewrite the LGP."""
    name: str = live["metadata"]["name"]
    deployment = next((one for end, one in listed.items() if name.endswith(f"-{end}")), None)
    if deployment is None:
        return "is left alone: no deployment of this listener", False
    if not adoption.is_foreign(live):
        return "is already managed by this data plane; nothing to adopt", False
    revision = deployment.latest_revision_id
    image = deployment.source_revision_config.image_uri
    differences = list(adoption.differences(live.get("spec") or {}, image=image, revision_id=revision))
    if differences:
        return f"is rewritten for revision {revision}, because of differences in {', '.join(differences)}", True
    return f"stays as it is: it already has revision {revision}", False
