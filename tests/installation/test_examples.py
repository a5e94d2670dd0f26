"""The example values: each file renders, and two data planes of one layout share nothing that both would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.settings import PREFIX, Settings
from tests.chart.rendering import Values, container, environment, own_secrets, pods, rendered
from tests.installation.cluster import EXAMPLES, example, placed

FILES = sorted(EXAMPLES.glob("*.yaml"))
WITH_JOB = [path for path in FILES if not path.stem.startswith("shared-namespace")]
"""Examples whose release has a Job that releases the leases; data planes that share a lease do not release it."""
PAIRS = sorted({path.stem.removesuffix("-a") for path in FILES if path.stem.endswith("-a")})


def found(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    release, namespace = placed(name)
    return rendered(example(name), namespace=namespace, release=release)


def environment_of(name: str) -> dict[str, str]:
    """Return the environment of the listener in an example."""
    manifests = found(name)
    secrets = {
        ("langsmith", "langsmith_api_key"): "lsv2_pt_0123456789",
        ("redis", "connection_url"): "rediss://redis.example:6379/0",
        **own_secrets(manifests.values()),
    }
    return environment(dict(pods(manifests))["listener"], secrets)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_renders_with_the_image_that_it_sets(path: Path) -> None:
    assert container(dict(pods(found(path.stem)))["operator"])["image"] == "registry.example.com/agentplane:0.1.0"


@pytest.mark.parametrize("path", WITH_JOB, ids=lambda path: path.stem)
def test_the_job_that_releases_leases_has_the_settings_that_it_needs(path: Path) -> None:
    job = found(path.stem)["Job", "leases"]
    variables = environment(job["spec"]["template"]["spec"])
    settings = Settings.load(
        listener_enabled=False,
        operator_enabled=False,
        **{name.removeprefix(PREFIX).lower(): value for name, value in variables.items()},
    )
    assert ",".join(settings.watch_namespaces) == example(path.stem)["config"]["watchNamespaces"]


def test_an_unknown_key_in_an_example_is_refused() -> None:
    values: Values = {**example(FILES[0].stem), "gatway": {}}
    with pytest.raises(Exception, match="gatway"):
        rendered(values)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_data_planes_of_one_cluster_have_nothing_in_common(pair: str) -> None:
    a, b = environment_of(f"{pair}-a"), environment_of(f"{pair}-b")

    for name in ("AGENTPLANE_WORKSPACE_ID", "AGENTPLANE_LISTENER_ID", "AGENTPLANE_PREFIX"):
        assert a[name] != b[name]
    watched = [set(one["AGENTPLANE_WATCH_NAMESPACES"].split(",")) for one in (a, b)]
    shared = [one.get("AGENTPLANE_SHARE_NAMESPACES") == "true" for one in (a, b)]
    assert bool(watched[0] & watched[1]) == all(shared) == any(shared)
    assert {one["AGENTPLANE_INGRESS_ENABLED"] for one in (a, b)} == {"false"}
    assert [("CustomResourceDefinition", "lgps.apps.langchain.ai") in found(f"{pair}-{letter}") for letter in "ab"] == [
        True,
        False,
    ]


def test_each_workspace_has_a_listener_of_its_own_in_every_cluster() -> None:
    listeners = [environment_of(path.stem)["AGENTPLANE_LISTENER_ID"] for path in FILES]
    assert len(set(listeners)) == len(FILES)
