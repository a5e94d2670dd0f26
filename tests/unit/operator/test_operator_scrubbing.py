"""Secret values are taken out of crash messages."""

from __future__ import annotations

import base64

from engine.operator.observation.scrubbing import hidden_values, scrub, secret_names, secret_values


def test_values_go_and_short_ones_stay() -> None:
    assert scrub("key=abcdef n=1 no", ["abcdef", "1", "no"]) == "key=*** n=1 no"


def test_the_longest_value_goes_first() -> None:
    assert scrub("pass-word-2", ["pass", "pass-word-2"]) == "***"


def test_the_password_within_a_url_goes_too() -> None:
    uri = "postgresql://me:p%40ss-w0rd@db:5432/x"
    assert scrub(f"{uri} | p%40ss-w0rd | p@ss-w0rd", [uri]) == "*** | *** | ***"


def test_each_line_of_a_value_goes() -> None:
    assert scrub("first-line\nand second-line", ["first-line\nsecond-line\n"]) == "***\nand ***"


def test_what_redaction_hides_is_found() -> None:
    original = {"env": [{"name": "A", "value": "hush"}, {"name": "PORT", "value": "80"}], "args": ["--token=x", "y"]}
    redacted = {"env": [{"name": "A", "value": "redacted:1"}, {"name": "PORT", "value": "80"}], "args": ["redacted:2"]}
    assert list(hidden_values(original, redacted)) == ["hush", "--token=x", "y"]


def test_the_values_of_a_secret_are_read_as_a_process_sees_them() -> None:
    encoded = {"a": base64.b64encode(b"hush").decode(), "binary": base64.b64encode(b"\xff\xfe").decode()}
    assert list(secret_values({"data": encoded, "stringData": {"b": "plain"}})) == ["hush", "plain"]


def test_every_way_a_pod_refers_to_a_secret_is_known() -> None:
    spec = {
        "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "one"}}]}],
        "containers": [
            {"name": "c", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "two", "key": "k"}}}]}
        ],
        "volumes": [
            {"name": "v", "secret": {"secretName": "three"}},
            {"name": "w", "projected": {"sources": [{"secret": {"name": "four"}}, {"configMap": {"name": "no"}}]}},
        ],
    }
    assert secret_names(spec) == {"one", "two", "three", "four"}
