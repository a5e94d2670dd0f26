"""Settings: what fits together, and what is said of what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SettingsError
from engine.settings import PREFIX, REGIONS, Settings, unknown_variables

WORKSPACE = "11111111-2222-4333-8444-555555555555"
LISTENER = "66666666-7777-4888-9999-000000000000"
KEY = "lsv2_pt_0123456789abcdef_0123456789"

ENOUGH = {
    "LANGSMITH_API_KEY": KEY,
    "WORKSPACE_ID": WORKSPACE,
    "LISTENER_ID": LISTENER,
    "WATCH_NAMESPACES": "agents",
    "INGRESS_HOSTNAME": "agents.example.com",
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads settings from an environment that holds nothing but what is given."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)

    def load(base: dict[str, str] | None = None, **variables: str | None) -> Settings:
        for name, value in {**(ENOUGH if base is None else base), **variables}.items():
            if value is None:
                monkeypatch.delenv(f"{PREFIX}{name}", raising=False)
            else:
                monkeypatch.setenv(f"{PREFIX}{name}", value)
        return Settings.load()

    return load


def test_the_shortest_configuration(load: Any) -> None:
    settings = load()

    assert str(settings.listener_id) == LISTENER
    assert settings.watch_namespaces == ("agents",)
    assert (settings.host_backend_url, settings.smith_backend_url) == REGIONS["gcp-us"]
    assert (settings.routing.kind, settings.routing.hostname, settings.routing.tls) == (
        "ingress",
        "agents.example.com",
        True,
    )
    assert (settings.poll_seconds, settings.sweep_seconds) == (10.0, 2.0)
    assert settings.stream_name == LISTENER


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_sets_both_urls(load: Any, region: str) -> None:
    settings = load(REGION=region.upper())

    assert (settings.host_backend_url, settings.smith_backend_url) == REGIONS[region]


def test_one_url_of_a_region_is_enough(load: Any) -> None:
    settings = load(HOST_BACKEND_URL="https://eu.api.host.langchain.com/")

    assert settings.smith_backend_url == "https://eu.api.smith.langchain.com"


def test_a_self_hosted_pair(load: Any) -> None:
    settings = load(HOST_BACKEND_URL="http://langsmith.corp/api-host/", SMITH_BACKEND_URL="http://langsmith.corp/api")

    assert settings.host_backend_url == "http://langsmith.corp/api-host"
    assert settings.smith_backend_url == "http://langsmith.corp/api"


MISTAKES: dict[str, tuple[dict[str, str | None], list[str]]] = {
    "nothing at all": (
        dict.fromkeys(ENOUGH),
        [
            "AGENTPLANE_LANGSMITH_API_KEY is not set; set it to the LangSmith API key of the workspace",
            "AGENTPLANE_WORKSPACE_ID is not set",
            "AGENTPLANE_LISTENER_ID is not set; set it to the id of the listener (a UUID, shown in LangSmith under",
            "AGENTPLANE_WATCH_NAMESPACES is not set; set it to the namespaces to deploy to, separated by",
            "AGENTPLANE_INGRESS_HOSTNAME is not set",
        ],
    ),
    "an empty key": ({"LANGSMITH_API_KEY": ""}, ["AGENTPLANE_LANGSMITH_API_KEY is not set"]),
    "an id that is no UUID": (
        {"LISTENER_ID": "my-listener"},
        ["AGENTPLANE_LISTENER_ID='my-listener' must be a UUID; set it to the id of the listener (a UUID, shown in"],
    ),
    "two regions": (
        {"HOST_BACKEND_URL": REGIONS["gcp-us"][0], "SMITH_BACKEND_URL": REGIONS["aws-us"][1]},
        ["AGENTPLANE_SMITH_BACKEND_URL='https://aws.api.smith.langchain.com'", "both URLs must belong to one region"],
    ),
    "a URL of another region": (
        {"REGION": "gcp-eu", "HOST_BACKEND_URL": REGIONS["gcp-us"][0]},
        ["AGENTPLANE_HOST_BACKEND_URL=", "region gcp-eu has https://eu.api.host.langchain.com"],
    ),
    "swapped URLs": (
        {"HOST_BACKEND_URL": REGIONS["gcp-us"][1], "SMITH_BACKEND_URL": REGIONS["gcp-us"][0]},
        ["look swapped"],
    ),
    "half a self-hosted pair": (
        {"HOST_BACKEND_URL": "https://langsmith.corp/api-host"},
        ["AGENTPLANE_SMITH_BACKEND_URL is not set"],
    ),
    "an unknown region": (
        {"REGION": "mars"},
        ["AGENTPLANE_REGION='mars' must be one of gcp-us, gcp-eu, gcp-apac, aws-us"],
    ),
    "a URL with the version": ({"HOST_BACKEND_URL": "https://x.example/v2"}, ["must end before /v1 or /v2"]),
    "a URL with a password": ({"HOST_BACKEND_URL": "https://u:sesame@x.example"}, ["must be a plain URL"]),
    "a URL with an empty query": ({"HOST_BACKEND_URL": "https://x.example/api-host?"}, ["must be a plain URL"]),
    "half a bracket in a URL": ({"HOST_BACKEND_URL": "https://[x"}, ["='https://[x' must be a URL such as https://"]),
    "no URL": ({"HOST_BACKEND_URL": "api.host.langchain.com"}, ["must be a URL such as https://"]),
    "two namespaces behind an Ingress": (
        {"WATCH_NAMESPACES": "one,two"},
        ["one shared Ingress serves the Agent Servers of one namespace", "AGENTPLANE_GATEWAY_ENABLED=true"],
    ),
    "two namespaces behind an Ingress elsewhere": (
        {"WATCH_NAMESPACES": "one,two", "INGRESS_NAMESPACE": "edge"},
        ["one shared Ingress serves the Agent Servers of one namespace", "AGENTPLANE_GATEWAY_ENABLED=true"],
    ),
    "more than one namespace of the Ingress": (
        {"INGRESS_NAMESPACE": "edge,front"},
        ["AGENTPLANE_INGRESS_NAMESPACE='edge,front' must be the name of one namespace"],
    ),
    "no namespace name": (
        {"WATCH_NAMESPACES": "agents,Big_Ones"},
        ["must be names of namespaces", "'Big_Ones' is not"],
    ),
    "two routes": (
        {"GATEWAY_ENABLED": "true", "ISTIO_GATEWAY_ENABLED": "true"},
        ["AGENTPLANE_GATEWAY_ENABLED and AGENTPLANE_ISTIO_GATEWAY_ENABLED are both true", "at most one exposure"],
    ),
    "three routes": (
        {"INGRESS_ENABLED": "true", "GATEWAY_ENABLED": "true", "ISTIO_GATEWAY_ENABLED": "true"},
        ["AGENTPLANE_ISTIO_GATEWAY_ENABLED are all true", "set all but one of them to false"],
    ),
    "an Ingress and a Gateway": (
        {"INGRESS_ENABLED": "true", "GATEWAY_ENABLED": "true"},
        ["AGENTPLANE_INGRESS_ENABLED and AGENTPLANE_GATEWAY_ENABLED are both true"],
    ),
    "a Gateway without a name": (
        {"GATEWAY_ENABLED": "true"},
        ["AGENTPLANE_GATEWAY_NAME is not set", "AGENTPLANE_GATEWAY_HOSTNAME is not set"],
    ),
    "a hostname with a scheme": ({"INGRESS_HOSTNAME": "https://a.example"}, ["without https://"]),
    "no number": (
        {"POLL_SECONDS": "often"},
        ["AGENTPLANE_POLL_SECONDS='often' must be a number of seconds, more than 0 and at most 86400"],
    ),
    "a negative time": (
        {"SWEEP_SECONDS": "-1"},
        ["AGENTPLANE_SWEEP_SECONDS='-1' must be a number of seconds, more than 0 and at most 86400"],
    ),
    "a long time": (
        {"SWEEP_SECONDS": "86401"},
        ["AGENTPLANE_SWEEP_SECONDS='86401' must be a number of seconds, more than 0 and at most 86400"],
    ),
    "a short lock": (
        {"LOCK_SECONDS": "0.5"},
        ["AGENTPLANE_LOCK_SECONDS='0.5' must be a number of seconds, at least 1 and at most 3600"],
    ),
    "a share above one": (
        {"DELETION_GUARD_SHARE": "50"},
        ["AGENTPLANE_DELETION_GUARD_SHARE='50' must be a number, more than 0 and at most 1"],
    ),
    "a fraction of a deployment": (
        {"DELETION_GUARD_MINIMUM": "1.5"},
        ["AGENTPLANE_DELETION_GUARD_MINIMUM='1.5' must be a whole number, at least 1"],
    ),
    "a port that does not exist": (
        {"METRICS_PORT": "65536"},
        ["AGENTPLANE_METRICS_PORT='65536' must be a whole number, at least 1 and at most 65535"],
    ),
    "neither true nor false": ({"QUEUE_ENABLED": "maybe"}, ["AGENTPLANE_QUEUE_ENABLED='maybe' must be true or false"]),
    "neither true nor false nor unset": (
        {"INGRESS_ENABLED": "maybe"},
        ["AGENTPLANE_INGRESS_ENABLED='maybe' must be true or false"],
    ),
    "a prefix with a brace": (
        {"PREFIX": "{x}"},
        ["AGENTPLANE_PREFIX='{x}' must be 1 to 40 lowercase letters, digits and dashes"],
    ),
    "a DSN without a scheme": ({"SENTRY_DSN": "sesame"}, ["AGENTPLANE_SENTRY_DSN must be a DSN such as https://"]),
    "a DSN without a project": (
        {"SENTRY_DSN": "https://key@sentry.example/sesame"},
        ["AGENTPLANE_SENTRY_DSN must be a DSN such as https://", "copy it from the project in Sentry"],
    ),
    "a DSN with half a bracket": (
        {"SENTRY_DSN": "https://key@[sesame/1"},
        ["AGENTPLANE_SENTRY_DSN must be a DSN such as https://"],
    ),
    "a route without a method": (
        {"REPORT_REVISION_ROUTE": "/v2/status"},
        ["AGENTPLANE_REPORT_REVISION_ROUTE='/v2/status'", "must be METHOD /path"],
    ),
    "a route with an unknown part": (
        {"REPORT_DEPLOYMENT_ROUTE": "PATCH /v2/{name}"},
        ["may use only {deployment_id} and {revision_id}, not 'name'"],
    ),
    "a template that is not there": (
        {"TEMPLATE_DB": "/nowhere/db.yaml"},
        ["AGENTPLANE_TEMPLATE_DB='/nowhere/db.yaml' is not a file that this process can read; correct the path"],
    ),
    "another database": ({"REDIS_URL": "postgres://u:sesame@h/0"}, ["AGENTPLANE_REDIS_URL must start with redis://"]),
    "half a bracket in a URL of Redis": ({"REDIS_URL": "redis://[sesame"}, ["AGENTPLANE_REDIS_URL must have an IPv6"]),
    "a key with a blank": ({"LANGSMITH_API_KEY": "sesame open"}, ["AGENTPLANE_LANGSMITH_API_KEY must be one word"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_the_setting_the_value_and_the_fix(load: Any, mistake: str) -> None:
    variables, words = MISTAKES[mistake]

    with pytest.raises(SettingsError) as error:
        load(**variables)

    for word in words:
        assert word in str(error.value)
    assert "sesame" not in str(error.value)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if field.annotation is not str])
def test_no_message_is_that_of_the_library(load: Any, name: str) -> None:
    try:
        load(**{name.upper(): "\x07 sesame"})
    except SettingsError as error:
        (line,) = str(error).splitlines()
        assert line.startswith(f"AGENTPLANE_{name.upper()}")
        assert not {"Input", "should", "expected:"} & set(line.split())


def test_sentry_is_imported_only_for_a_dsn() -> None:
    program = "import sys, engine.settings as s; s.Settings(listener_enabled=False, operator_enabled=False)"
    for dsn, imported in (("", False), ("https://key@sentry.example/1\n", True)):
        environment = {**_without_settings(), f"{PREFIX}SENTRY_DSN": dsn}
        done = subprocess.run(
            [sys.executable, "-c", f"{program}; print('sentry_sdk' in sys.modules)"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(imported)


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def test_all_mistakes_are_reported_at_once(load: Any) -> None:
    with pytest.raises(SettingsError) as error:
        load(WORKSPACE_ID="x", POLL_SECONDS="y", PREFIX="Z")

    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("given", "elsewhere"),
    [
        ({}, ""),
        ({"INGRESS_NAMESPACE": "agents"}, ""),
        ({"INGRESS_NAMESPACE": "edge"}, "edge"),
        ({"INGRESS_NAMESPACE": "edge", "INGRESS_ENABLED": "false", "HEALTH_CHECK_ENABLED": "false"}, ""),
    ],
)
def test_a_shared_ingress_may_be_elsewhere(load: Any, given: dict[str, str], elsewhere: str) -> None:
    assert load(**given).ingress_elsewhere == elsewhere


def test_more_namespaces_are_fine_behind_a_gateway(load: Any) -> None:
    settings = load(
        WATCH_NAMESPACES=" one , two,one ",
        GATEWAY_ENABLED="true",
        GATEWAY_NAME="public",
        GATEWAY_HOSTNAME="a.example:8443",
        GATEWAY_BASE_PATH="agents/",
        INGRESS_HOSTNAME=None,
    )

    assert settings.watch_namespaces == ("one", "two")
    assert (settings.routing.kind, settings.routing.base_path) == ("gateway", "/agents")


def test_no_hostname_is_needed_without_health_checks(load: Any) -> None:
    assert load(INGRESS_HOSTNAME=None, HEALTH_CHECK_ENABLED="false").routing.hostname == ""


def test_no_route_at_all(load: Any) -> None:
    assert load(INGRESS_HOSTNAME=None, INGRESS_ENABLED="false").routing.kind == "none"


def test_an_operator_alone_needs_no_langsmith(load: Any) -> None:
    alone = {"LISTENER_ENABLED": "false", "WATCH_NAMESPACES": "agents"}
    with pytest.raises(SettingsError, match="AGENTPLANE_DIGEST_KEY is not set"):
        load(alone)

    assert load(alone, DIGEST_KEY="something-long-and-secret").stream_name == "operator"


@pytest.mark.parametrize("value", ["", "off", "None"])
def test_report_routes_can_be_switched_off(load: Any, value: str) -> None:
    assert load(REPORT_REVISION_ROUTE=value).report_revision_route == ""


def test_an_empty_variable_is_unset(load: Any) -> None:
    assert load(POLL_SECONDS="", KUBECONFIG="").poll_seconds == 10.0


def test_a_key_from_a_file_may_end_in_a_newline(load: Any) -> None:
    assert load(LANGSMITH_API_KEY=f"{KEY}\n").langsmith_api_key.get_secret_value() == KEY


def test_templates_are_read(load: Any, tmp_path: Path) -> None:
    template = tmp_path / "deployment.yaml"
    template.write_text("kind: Deployment\n")

    assert load(TEMPLATE_DEPLOYMENT=str(template)).templates() == {"deployment": "kind: Deployment\n"}


def test_no_secret_is_ever_shown(load: Any) -> None:
    settings = load(
        REDIS_URL="rediss://user:p%40ss-word@redis.corp:6380/1?password=other-word",
        SENTRY_DSN="https://dsn-key@sentry.corp/1",
        DIGEST_KEY="digest-sesame",
    )
    shown = f"{settings!r} {settings} {settings.describe()} {settings.model_dump_json()}"

    for secret in (KEY, "p%40ss-word", "p@ss-word", "other-word", "dsn-key", "digest-sesame"):
        assert secret not in shown
    assert settings.redis_display == "rediss://user:***@redis.corp:6380/1?password=***"
    assert {KEY, "p%40ss-word", "p@ss-word", "other-word", "digest-sesame"} <= set(settings.secrets())


def test_every_setting_is_described(load: Any) -> None:
    described = load().describe()

    assert [setting.variable for setting in described if not setting.description] == []
    given = {setting.variable.removeprefix(PREFIX) for setting in described if setting.given}
    assert given == set(ENOUGH)


def test_a_misspelt_variable_is_found_with_the_nearest_name() -> None:
    environment = {
        "AGENTPLANE_POLL_SECOND": "3",
        "AGENTPLANE_POLL_SECONDS": "3",
        "AGENTPLANE_REDIS_PORT": "tcp://10.0.0.1:6379",
        "AGENTPLANE_REDIS_SERVICE_HOST": "10.0.0.1",
        "AGENTPLANE_ZZZ": "",
        "HOME": "/",
    }

    assert unknown_variables(environment) == [
        ("AGENTPLANE_POLL_SECOND", "AGENTPLANE_POLL_SECONDS"),
        ("AGENTPLANE_ZZZ", ""),
    ]


def test_settings_do_not_change(load: Any) -> None:
    settings = load()

    with pytest.raises(ValueError, match="frozen"):
        settings.poll_seconds = 1.0


def test_a_setting_that_does_not_exist(load: Any) -> None:
    with pytest.raises(SettingsError, match="pol_seconds: there is no such setting; did you mean poll_seconds\\?"):
        Settings.load(pol_seconds=3)
