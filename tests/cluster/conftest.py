"""Fixtures on the cluster of KUBECONFIG: a data plane that most cases share, and `prepare` for a separate one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from sandbox.control_plane.server import ControlPlane
from tests.chart.rendering import Values, layered
from tests.cluster import place
from tests.cluster.cluster import Cluster
from tests.cluster.data_plane import DataPlane, Install, Workspace, image, ingress, modest, upstream

HERE = Path(__file__).parent
LAST = ("test_faults.py", "test_removal.py")
"""Files that run last, because their cases disturb the whole cluster."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every case 400 seconds, enough for its own installation; move the files of `LAST` to the end."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))
    items.sort(key=lambda item: LAST.index(item.path.name) if item.path.name in LAST else -1)


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    place.variable("IMAGE")
    with Cluster.current() as found:
        yield found


@pytest.fixture(scope="package")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane on this machine that pods can reach. Its port is not 443, as with some self-hosted ones."""
    with ControlPlane({"nobody": str(uuid4())}, infer_listener=True, host=place.address()) as plane:
        yield plane


@pytest.fixture(scope="package")
def prepare(
    cluster: Cluster, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Install]:
    """A function that makes namespaces and a workspace, and returns a data plane for them that is not yet installed.

    Its own namespace enforces Pod Security `restricted`; the namespaces of the Agent Servers enforce `baseline`.
    """
    prepared: list[DataPlane] = []
    made: list[str] = []

    def make(*layers: Values, agents: tuple[str, ...] = ()) -> DataPlane:
        name = f"plane-{secrets.token_hex(3)}"
        cluster.make_namespace(name, "restricted")
        made.append(name)
        if not agents:
            agents = (f"{name}-agents",)
            cluster.make_namespace(*agents, "baseline")
            made.extend(agents)
        workspace = Workspace.make(control_plane, tmp_path_factory.mktemp(name), *agents)
        own: Values = {
            "config": {"watchNamespaces": ",".join(agents)},
            "operator": {"createCRDs": not cluster.serves("apps.langchain.ai/v1alpha1")},
        }
        values = layered(modest(), image(place.variable("IMAGE")), workspace.values(), own, *layers)
        prepared.append(DataPlane(cluster, workspace, name, ",".join(agents), values))
        return prepared[-1]

    yield make
    for plane in prepared:
        plane.uninstall()
    cluster.gone(*made)


@pytest.fixture(scope="package")
def plane(prepare: Install) -> DataPlane:
    """The data plane that most cases share: upstream's default values, and the values that every installation sets."""
    made = prepare(ingress())
    made.values = layered(upstream(), made.values)
    made.upgrade()
    return made
