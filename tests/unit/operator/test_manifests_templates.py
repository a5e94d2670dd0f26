"""Templates: variables in YAML, and the messages about templates that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from engine.errors import SettingsError
from engine.operator import templates
from engine.operator.config import Gateway, OperatorConfig, Templates

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "langgraph-dataplane-values.yaml"

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: "${{name}}"}}
spec:
  selector: {{app: "${{name}}"}}
  ports: [{{port: 1}}]
  extra: {}
"""


def extra(yaml_value: str, **values: str | int) -> Any:
    """The value of `yaml_value` in a filled template."""
    return templates.fill("service", SERVICE.format(yaml_value), {"name": "n", "namespace": "ns", **values})["spec"][
        "extra"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${name}", "n"),
        ("${name}-x", "n-x"),
        ('"${name}"', "n"),
        ("{${name}: [${namespace}]}", {"n": ["ns"]}),
        ("$(POD_IP) and $HOME", "$(POD_IP) and $HOME"),
        ("$${name}", "${name}"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", 16),
    ],
)
def test_variables(text: str, expected: Any) -> None:
    assert extra(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("${replicas}", 3), ('"${replicas}"', "3"), ("a=${replicas}", "a=3")])
def test_a_plain_variable_keeps_its_type(text: str, expected: Any) -> None:
    template = templates.DEPLOYMENT.replace("replicas: ${replicas}", f"extra: {text}")
    values: dict[str, str | int] = {"name": "n", "namespace": "ns", "replicas": 3, "image": "i"}
    assert templates.fill("deployment", template, values)["spec"]["extra"] == expected


@given(st.text(max_size=40))
def test_a_value_is_a_value_whatever_is_in_it(value: str) -> None:
    assert extra("${name}", name=value) == value
    assert extra('{a: "x ${name}"}', name=value) == {"a": f"x {value}"}


def test_an_unknown_variable_is_named_with_its_template() -> None:
    with pytest.raises(
        SettingsError,
        match=r"operator\.templates\.service uses the unknown variable \$\{image\}; the variables are name",
    ):
        extra("${image}")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{", "is not YAML"),
        ("[]", "must be one Kubernetes object"),
        ("{apiVersion: v1, kind: Pod}", "must be apps/v1 Deployment, but it is v1 Pod"),
        ("{apiVersion: apps/v1, kind: Deployment}", r"spec\.selector\.matchLabels must be a mapping that is not empty"),
        (templates.DEPLOYMENT.replace("replicas: ${replicas}", "extra: !!binary aGk="), "no JSON value"),
    ],
)
def test_templates_that_do_not_fit_are_refused_at_start(template: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=rf"operator\.templates\.deployment.*{problem}"):
        Templates(deployment=template)


def test_filled_templates_are_free_to_change() -> None:
    values: dict[str, str | int] = {"name": "n", "namespace": "ns"}
    templates.fill("service", templates.SERVICE, values)["spec"]["ports"].clear()
    assert templates.fill("service", templates.SERVICE, values)["spec"]["ports"]


def test_only_one_exposure() -> None:
    with pytest.raises(SettingsError, match=r"only one of .* not ingress and gateway"):
        OperatorConfig(gateway=Gateway(enabled=True, name="g"))


def test_a_gateway_needs_its_name() -> None:
    with pytest.raises(SettingsError, match=r"gateway\.name is empty"):
        OperatorConfig.model_validate({"ingress": {"enabled": False}, "gateway": {"enabled": True}})


def test_configuration_survives_the_log() -> None:
    config = OperatorConfig(keda_enabled=True)
    assert OperatorConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.skipif(not REFERENCE.exists(), reason="no values file of the upstream chart beside the checkout")
def test_templates_of_existing_values_files_are_read() -> None:
    values = yaml.safe_load(REFERENCE.read_text())
    config = OperatorConfig(templates=Templates(**values["operator"]["templates"]))
    given_values: dict[str, dict[str, str | int]] = {
        name: {variable: 1 if variable == "replicas" else variable.replace("_", "-") for variable in known}
        for name, known in templates.VARIABLES.items()
    }
    for name, kind in templates.KINDS.items():
        ours = templates.fill(name, getattr(Templates(), name), given_values[name])
        theirs = templates.fill(name, getattr(config.templates, name), given_values[name])
        assert (theirs["apiVersion"], theirs["kind"]) == kind
        assert contract(ours) == contract(theirs)


def contract(manifest: dict[str, Any]) -> Any:
    """The parts that users' other objects rely on: names, selectors, ports, images, probed paths, claims."""
    spec = manifest["spec"]
    if manifest["kind"] == "Service":
        return manifest["metadata"], spec["selector"], spec["ports"]
    pod = spec["template"]["spec"]
    return (
        manifest["metadata"],
        spec["selector"],
        spec["template"]["metadata"],
        [
            {
                "name": one["name"],
                "image": one["image"],
                "ports": [port["containerPort"] for port in one["ports"]],
                "probes": [
                    {key: value for key, value in one[probe].items() if key in ("httpGet", "tcpSocket", "exec")}
                    for probe in ("livenessProbe", "readinessProbe")
                    if probe in one
                ],
                "env": sorted(entry["name"] for entry in one.get("env", ())),
                "mounts": one.get("volumeMounts"),
                "resources": one.get("resources"),
                "args": one.get("args"),
            }
            for one in pod["containers"]
        ],
        spec.get("volumeClaimTemplates"),
    )
