"""CEL rules of CustomResourceDefinitions, and invalid values that validation accepts because a write keeps them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conformance.client import PATCHES, Api, causes, install_definition, refused, succeeded
from tests.conformance.objects import Object, definition
from tests.support.eventually import eventually


def ruled(kind: str, rule: str, **rest: Any) -> Object:
    """Return a schema of one type with one rule."""
    entry: Object = {"rule": rule}
    entry |= {key: rest.pop(key) for key in ("message", "reason", "optionalOldSelf") if key in rest}
    return {"type": kind, "x-kubernetes-validations": [entry], **rest}


SPEC: Object = {
    "type": "object",
    "properties": {
        "low": {"type": "integer", "default": 1},
        "high": {"type": "integer", "default": 5},
        "mode": {"type": "string"},
        "plan": {"type": "string"},
        "frozen": ruled("string", "self == oldSelf", message="frozen may not change", reason="FieldValueForbidden"),
        "phase": ruled(
            "string", "oldSelf.hasValue() || self == 'new'", message="must begin as new", optionalOldSelf=True
        ),
        "link": ruled("string", "isURL(self) && url(self).getHost() == 'example.dev'"),
        "amount": ruled("string", "quantity(self).isGreaterThan(quantity('1Gi'))", message="must be more than 1Gi"),
        "code": ruled("string", "self.find('[0-9]+') == '42'"),
        "address": ruled("string", "isIP(self) && ip(self).family() == 4"),
        "words": ruled("array", "self.isSorted()", maxItems=9, items={"type": "string", "maxLength": 9}),
        "sizes": ruled("array", "self.sum() < 10 && self.max() < 6", maxItems=9, items={"type": "integer"}),
        "name-of.it": {"type": "string"},
        "namespace": {"type": "string"},
        "ratio": ruled("number", "self < 1.5"),
        "wait": ruled("string", "self <= duration('1h')", format="duration"),
        "until": ruled("string", "self > timestamp('2020-01-01T00:00:00Z')", format="date-time"),
        "divisor": ruled("integer", "10 / self > 1"),
        "labels": {
            "type": "object",
            "maxProperties": 9,
            "additionalProperties": ruled("string", "self.size() < 5", message="too long"),
        },
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": ruled(
                "object",
                "self.count >= oldSelf.count",
                message="count may not shrink",
                required=["name"],
                properties={"name": {"type": "string"}, "count": {"type": "integer"}},
            ),
        },
        "steps": {"type": "array", "items": ruled("string", "self.startsWith('do-')")},
        "many": {"type": "string", "maxLength": 3},
    },
    "x-kubernetes-validations": [
        {
            "rule": "self.low <= self.high",
            "messageExpression": "'low is above high, ' + (self.high > 3 ? 'which is large' : 'which is small')",
            "fieldPath": ".low",
        },
        {
            "rule": "!has(self.mode) || self.mode != 'paid' || has(self.plan)",
            "message": "mode paid needs a plan",
            "reason": "FieldValueRequired",
            "fieldPath": ".plan",
        },
        {"rule": "!has(self.name__dash__of__dot__it) || self.name__dash__of__dot__it != self.__namespace__"},
        {"rule": "!has(self.mode) || self.mode in ['paid', 'free', 'trial']", "reason": "FieldValueDuplicate"},
    ],
}
SCHEMA: Object = {
    "type": "object",
    "properties": {"spec": SPEC, "status": {"type": "object", "properties": {"used": {"type": "integer"}}}},
    "x-kubernetes-validations": [
        {"rule": "self.metadata.name.startsWith('a')", "message": "the name must start with a"},
        {"rule": "!has(self.status) || !has(self.status.used) || self.status.used <= self.spec.high"},
    ],
}


@pytest.fixture(scope="module")
def tickets(http: httpx.Client) -> Object:
    """The custom resource `tickets.rules.dev`, all fields of which have rules; installed once per server."""
    crd = definition("tickets", "rules.dev", "Ticket", SCHEMA, subresources={"status": {}})
    return install_definition(Api(http, ""), crd)


def ticket(spec: Object, name: str = "a", **rest: Any) -> Object:
    return {"apiVersion": "rules.dev/v1", "kind": "Ticket", "metadata": {"name": name}, "spec": spec, **rest}


def path_of(api: Api, name: str = "", group: str = "rules.dev", plural: str = "tickets") -> str:
    base = f"/apis/{group}/v1/namespaces/{api.namespace}/{plural}"
    return f"{base}/{name}" if name else base


def create(api: Api, spec: Object, name: str = "a") -> httpx.Response:
    return api.http.post(path_of(api), json=ticket(spec, name))


def patch(api: Api, change: Object, path: str = "") -> httpx.Response:
    headers = {"Content-Type": PATCHES["merge"]}
    return api.http.patch(path or path_of(api, "a"), json=change, headers=headers)


GOOD: list[Object] = [
    {},
    {"link": "https://example.dev/x"},
    {"amount": "2Gi"},
    {"amount": "5G"},
    {"code": "is-42"},
    {"address": "10.0.0.1"},
    {"words": ["a", "b"]},
    {"sizes": [1, 5]},
    {"ratio": 1},
    {"wait": "30m"},
    {"until": "2024-05-06T07:08:09Z"},
    {"divisor": 2},
    {"labels": {"x": "1234"}},
    {"parts": [{"name": "x", "count": 1}]},
    {"steps": ["do-this"]},
    {"phase": "new"},
    {"frozen": "once"},
    {"name-of.it": "x", "namespace": "y"},
]


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_objects_that_keep_the_rules(api: Api, tickets: Object, spec: Object) -> None:
    assert create(api, spec).status_code == 201


BAD: list[tuple[Object, str, str]] = [
    ({"low": 7}, "spec.low", 'Invalid value: "object": low is above high, which is large'),
    ({"mode": "paid"}, "spec.plan", "Required value: mode paid needs a plan"),
    ({"mode": "stolen"}, "spec", 'Duplicate value: "object"'),
    ({"phase": "old"}, "spec.phase", 'Invalid value: "string": must begin as new'),
    (
        {"link": "https://example.com"},
        "spec.link",
        "Invalid value: \"string\": failed rule: isURL(self) && url(self).getHost() == 'example.dev'",
    ),
    ({"link": "no url"}, "spec.link", ""),
    ({"amount": "1Gi"}, "spec.amount", 'Invalid value: "string": must be more than 1Gi'),
    ({"amount": "1500m"}, "spec.amount", ""),
    ({"code": "is-43"}, "spec.code", ""),
    ({"address": "::1"}, "spec.address", ""),
    ({"words": ["b", "a"]}, "spec.words", 'Invalid value: "array": failed rule: self.isSorted()'),
    ({"sizes": [9]}, "spec.sizes", ""),
    ({"ratio": 2}, "spec.ratio", 'Invalid value: "number": failed rule: self < 1.5'),
    ({"wait": "2h"}, "spec.wait", ""),
    ({"until": "2010-05-06T07:08:09Z"}, "spec.until", ""),
    ({"divisor": 20}, "spec.divisor", 'Invalid value: "integer": failed rule: 10 / self > 1'),
    ({"divisor": 0}, "spec.divisor", 'Invalid value: "integer": division by zero evaluating rule: 10 / self > 1'),
    ({"labels": {"x": "12345"}}, "spec.labels[x]", 'Invalid value: "string": too long'),
    ({"steps": ["do-this", "that"]}, "spec.steps[1]", ""),
    ({"name-of.it": "x", "namespace": "x"}, "spec", ""),
    ({"name-of.it": "x"}, "spec", "no such key: __namespace__"),
]


@pytest.mark.parametrize(("spec", "field", "words"), BAD, ids=[str(row[0]) for row in BAD])
def test_objects_that_break_a_rule(api: Api, tickets: Object, spec: Object, field: str, words: str) -> None:
    status = refused(create(api, spec), 422, "Invalid")
    found = {cause["field"]: cause["message"] for cause in status["details"]["causes"]}
    assert list(found) == [field]
    assert words in found[field]
    assert f"{field}: {found[field]}" in status["message"]


def test_the_reason_of_a_rule_is_the_reason_of_the_cause(api: Api, tickets: Object) -> None:
    create(api, {"frozen": "once"})
    status = refused(patch(api, {"spec": {"frozen": "twice", "low": 9}}), 422, "Invalid")
    assert causes(status) == {("spec.frozen", "FieldValueForbidden"), ("spec.low", "FieldValueInvalid")}
    assert "spec.frozen: Forbidden: frozen may not change" in status["message"]


def test_rules_of_the_object_itself(api: Api, tickets: Object) -> None:
    status = refused(create(api, {}, name="b"), 422, "Invalid")
    assert status["details"]["causes"] == [
        {
            "reason": "FieldValueInvalid",
            "message": 'Invalid value: "object": the name must start with a',
            "field": "<nil>",
        }
    ]
    assert status["message"].startswith('Ticket.rules.dev "b" is invalid: <nil>: Invalid value')


def test_rules_wait_for_a_valid_schema(api: Api, tickets: Object) -> None:
    status = refused(create(api, {"low": "seven", "words": ["b", "a"]}), 422, "Invalid")
    assert causes(status) == {("spec.low", "FieldValueTypeInvalid"), ("<nil>", "FieldValueInvalid")}
    assert "some validation rules were not checked because the object was invalid" in status["message"]


def test_transition_rules_count_for_updates_only(api: Api, tickets: Object) -> None:
    assert create(api, {"frozen": "once"}).status_code == 201
    assert patch(api, {"spec": {"plan": "x"}}).status_code == 200
    refused(patch(api, {"spec": {"frozen": "twice"}}), 422, "Invalid")
    assert patch(api, {"spec": {"frozen": None}}).status_code == 200
    assert patch(api, {"spec": {"frozen": "again"}}).status_code == 200


def test_an_optional_old_self_counts_always(api: Api, tickets: Object) -> None:
    create(api, {"phase": "new"})
    assert patch(api, {"spec": {"phase": "old"}}).status_code == 200


def test_items_of_a_list_map_are_compared_by_their_keys(api: Api, tickets: Object) -> None:
    create(api, {"parts": [{"name": "x", "count": 2}, {"name": "y", "count": 5}]})
    grown = [{"name": "y", "count": 5}, {"name": "z", "count": 1}, {"name": "x", "count": 3}]
    assert patch(api, {"spec": {"parts": grown}}).status_code == 200
    shrunk = [{"name": "z", "count": 1}, {"name": "y", "count": 4}]
    status = refused(patch(api, {"spec": {"parts": shrunk}}), 422, "Invalid")
    assert causes(status) == {("spec.parts[1]", "FieldValueInvalid")}


def test_rules_count_for_apply_and_for_status(api: Api, tickets: Object) -> None:
    headers = {"Content-Type": PATCHES["apply"]}
    response = api.http.patch(
        path_of(api, "a"), json=ticket({"low": 9}), headers=headers, params={"fieldManager": "tester"}
    )
    refused(response, 422, "Invalid")
    create(api, {})
    status = path_of(api, "a/status")
    assert patch(api, {"status": {"used": 5}}, status).status_code == 200
    refused(patch(api, {"status": {"used": 6}}, status), 422, "Invalid")


def test_a_dry_run_checks_rules(api: Api, tickets: Object) -> None:
    response = api.http.post(path_of(api), json=ticket({"low": 9}), params={"dryRun": "All"})
    refused(response, 422, "Invalid")


# definitions


def with_rules(*entries: Object | None, kind: str = "string") -> Object:
    value: Object = {"type": kind, "x-kubernetes-validations": list(entries)}
    if kind == "array":
        value |= {"items": {"type": "object", "properties": {"x": {"type": "string"}}}}
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": {"value": value}}}}


BROKEN: list[tuple[str, Object | None, str, str]] = [
    ("null", None, "rule", "Required"),
    ("no rule", {"rule": " "}, "rule", "Required"),
    ("syntax", {"rule": "self =="}, "rule", "Invalid"),
    ("unknown function", {"rule": "shout(self)"}, "rule", "Invalid"),
    ("unknown variable", {"rule": "other == 1"}, "rule", "Invalid"),
    ("wrong type", {"rule": "self + 1 == 2"}, "rule", "Invalid"),
    ("not a bool", {"rule": "'text'"}, "rule", "Invalid"),
    ("reason", {"rule": "true", "reason": "Because"}, "reason", "NotSupported"),
    ("message of lines", {"rule": "true", "message": "a\nb"}, "message", "Invalid"),
    ("rule of lines", {"rule": "true &&\ntrue"}, "message", "Required"),
    ("field path", {"rule": "true", "fieldPath": ".ghost"}, "fieldPath", "Invalid"),
    ("message expression", {"rule": "true", "messageExpression": "1 + 1"}, "messageExpression", "Invalid"),
    ("optional without use", {"rule": "true", "optionalOldSelf": True}, "optionalOldSelf", "Invalid"),
]


@pytest.mark.parametrize(("entry", "field", "reason"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_rules_are_refused(api: Api, entry: Object | None, field: str, reason: str) -> None:
    crd = definition("broken", f"{api.namespace}.dev", "Broken", with_rules(entry))
    response = api.send("POST", "customresourcedefinitions", body=crd, dryRun="All")
    ((found, named),) = causes(refused(response, 422, "Invalid"))
    assert found.endswith(f"properties[spec].properties[value].x-kubernetes-validations[0].{field}")
    assert named == f"FieldValue{reason}"


def test_a_rule_that_does_not_compile_says_where(api: Api) -> None:
    crd = definition("broken", f"{api.namespace}.dev", "Broken", with_rules({"rule": "self.size() > limit"}))
    response = api.send("POST", "customresourcedefinitions", body=crd, dryRun="All")
    words = refused(response, 422, "Invalid")["message"]
    assert "compilation failed: ERROR: <input>:1:15: undeclared reference to 'limit'" in words


def test_items_without_keys_have_no_old_self(api: Api) -> None:
    schema = with_rules(kind="array")
    value = schema["properties"]["spec"]["properties"]["value"]
    value["items"]["x-kubernetes-validations"] = [{"rule": "self.x == oldSelf.x"}]
    crd = definition("broken", f"{api.namespace}.dev", "Broken", schema)
    response = api.send("POST", "customresourcedefinitions", body=crd, dryRun="All")
    assert "oldSelf cannot be used on the uncorrelatable portion" in refused(response, 422, "Invalid")["message"]


# ratcheting


@pytest.fixture
def tightened(api: Api) -> str:
    """Create an object, then make its definition forbid its values; return the object's path."""
    group = f"{api.namespace}.dev"
    properties = {"old": {"type": "string"}, "ruled": {"type": "string"}, "free": {"type": "string"}}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}
    crd = definition("things", group, "Thing", schema)
    install_definition(api, crd)
    path = path_of(api, group=group, plural="things")
    thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "a"}}
    succeeded(api.http.post(path, json={**thing, "spec": {"old": "far too long", "ruled": "x", "free": "1"}}))
    place = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
    change = [
        {"op": "replace", "path": f"{place}/old", "value": {"type": "string", "maxLength": 3}},
        {"op": "replace", "path": f"{place}/ruled", "value": ruled("string", "self == 'y'", message="must be y")},
    ]
    api.patch("customresourcedefinitions", crd["metadata"]["name"], change, "json")
    fresh = {**thing, "metadata": {"name": "b"}, "spec": {"old": "long"}}
    dry = {"dryRun": "All"}
    eventually(lambda: api.http.post(path, json=fresh, params=dry).status_code == 422, "the new schema is in force")
    return f"{path}/a"


def test_what_was_invalid_may_stay(api: Api, tightened: str) -> None:
    changed = patch(api, {"spec": {"free": "2"}}, tightened)
    assert changed.status_code == 200, changed.text
    assert patch(api, {"metadata": {"labels": {"x": "1"}}}, tightened).status_code == 200


def test_a_broken_rule_that_may_stay_is_warned_of(api: Api, tightened: str) -> None:
    warnings = patch(api, {"spec": {"free": "2"}}, tightened).headers.get_list("Warning")
    assert '299 - "spec.ruled: Invalid value: \\"string\\": must be y"' in warnings


def test_what_was_invalid_may_not_become_invalid_otherwise(api: Api, tightened: str) -> None:
    status = refused(patch(api, {"spec": {"old": "also long"}}, tightened), 422, "Invalid")
    assert causes(status) >= {("spec.old", "FieldValueTooLong")}
    status = refused(patch(api, {"spec": {"ruled": "z"}}, tightened), 422, "Invalid")
    assert causes(status) == {("spec.ruled", "FieldValueInvalid")}
    assert patch(api, {"spec": {"ruled": "y", "old": "ok"}}, tightened).status_code == 200
