"""What the tests are told about the cluster that KUBECONFIG points to: variables, and a reason to skip for each.

docs/development.md says what to set on kind and k3d; `tests/cluster/node.sh` sets all of it on a node of its own.
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
    "STUB": "two images by digest of tests/cluster/images/stub, with a comma between",
    "AGENT": "two images by digest of a real Agent Server, with a comma between",
    "ADDRESS": "address of this machine as pods see it",
    "INGRESS": "host:port at which the ingress controller and the Gateway answer",
    "HOSTNAME": "hostname of Agent Servers, which pods can resolve",
    "INGRESS_CLASS": "class of the ingress controller",
    "GATEWAY": "namespace/name of a Gateway that lets routes of all namespaces in",
    "EARLIER": "agentplane's image of the commit before",
    "EARLIER_CHART": "folder of the chart of the commit before",
    "NODE": "folder of the node that tests/cluster/node.sh started",
}


def told(name: str) -> str:
    """Return a variable of the place; skip the test, saying what is missing, where nobody set the variable."""
    value = os.environ.get(PREFIX + name, "")
    if not value:
        pytest.skip(f"{PREFIX}{name} is not set: {WHAT[name]} (docs/development.md)")
    return value


slow = pytest.mark.skipif(
    not os.environ.get(PREFIX + "SLOW"), reason=f"{PREFIX}SLOW is not set: the case takes a minute or more"
)
"""Leaves a case out of the default run, which must fit in a quarter of an hour on a node of two CPUs."""


def address() -> str:
    """Return the address of this machine as pods see it; skip where this machine has no such address."""
    given = told("ADDRESS")
    try:
        socket.create_server((given, 0)).close()
    except OSError as error:
        pytest.skip(f"{PREFIX}ADDRESS={given} is no address of this machine: {error} (docs/development.md)")
    return given


def kubeconfig() -> Path:
    """Return the file in KUBECONFIG; skip where there is none."""
    path = os.environ.get("KUBECONFIG", "")
    if not path:
        pytest.skip("KUBECONFIG is not set: it says which cluster to test on (docs/development.md)")
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
    """Return two references by digest, of an image and its successor."""
    first, _, second = told(name).partition(",")
    return first, second or first
