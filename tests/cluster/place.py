"""Variables that describe the cluster of KUBECONFIG. A test that needs an unset variable is skipped with the reason.

docs/development.md says what to set on kind and k3d; `tests/cluster/node.sh` sets all variables for the node it starts.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

PREFIX = "TESTS_CLUSTER_"
WHAT = {
    "IMAGE": "agentplane's image, repository:tag, as nodes pull it",
    "STUB": "two images by digest of tests/cluster/images/stub, separated by a comma",
    "AGENT": "two images by digest of a real Agent Server, separated by a comma",
    "ADDRESS": "address of this machine as pods see it",
    "INGRESS": "host:port at which the ingress controller and the Gateway answer",
    "HOSTNAME": "hostname of Agent Servers, which pods can resolve",
    "INGRESS_CLASS": "class of the ingress controller",
    "GATEWAY": "namespace/name of a Gateway that accepts routes of all namespaces",
    "EARLIER": "agentplane's image of the previous commit",
    "EARLIER_CHART": "folder of the chart of the previous commit",
    "NODE": "folder of the node that tests/cluster/node.sh started",
}


def variable(name: str) -> str:
    """Return the value of TESTS_CLUSTER_`name`; skip the test with the reason if the variable is not set."""
    value = os.environ.get(PREFIX + name, "")
    if not value:
        pytest.skip(f"{PREFIX}{name} is not set: {WHAT[name]} (docs/development.md)")
    return value


slow = pytest.mark.skipif(
    not os.environ.get(PREFIX + "SLOW"), reason=f"{PREFIX}SLOW is not set: the case takes a minute or more"
)
"""Excludes a case from the default run, which must take at most 15 minutes on a node of two CPUs."""


def address() -> str:
    """Return the address of this machine as pods see it; skip the test if this machine does not have it."""
    given = variable("ADDRESS")
    try:
        socket.create_server((given, 0)).close()
    except OSError as error:
        pytest.skip(f"{PREFIX}ADDRESS={given} is no address of this machine: {error} (docs/development.md)")
    return given


def kubeconfig() -> Path:
    """Return the path in KUBECONFIG; skip the test if there is no such file."""
    path = os.environ.get("KUBECONFIG", "")
    if not path:
        pytest.skip("KUBECONFIG is not set: set it to the cluster to test on (docs/development.md)")
    if not Path(path).is_file():
        pytest.skip(f"KUBECONFIG={path} is no file")
    return Path(path)


@dataclass(frozen=True)
class Image:
    """An image of the data plane, as chart values."""

    repository: str
    tag: str

    @classmethod
    def of(cls, reference: str) -> Image:
        repository, _, tag = reference.rpartition(":")
        if not repository or "/" in tag:
            pytest.skip(f"{reference} is no image with a tag, repository:tag (docs/development.md)")
        return cls(repository, tag)


def images(name: str) -> tuple[str, str]:
    """Return the two image references by digest of a variable; if it has one, return it twice."""
    first, _, second = variable(name).partition(",")
    return first, second or first
