"""ValidatingAdmissionPolicies and their bindings: denials, warnings, and validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conformance.client import PATCHES, Api, causes, refused, succeeded
from tests.conformance.objects import Object, config_map, deployment
from tests.support.eventually import eventually

GROUP = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{GROUP}/validatingadmissionpolicies", f"{GROUP}/validatingadmissionpolicybindings"
Enforce = Callable[..., None]
EVERYTHING: Object = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}


def policy(name: str, *validations: Object, resources: tuple[str, str] = ("", "configmaps"), **spec: Any) -> Object:
    group, plural = resources
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"], "resources": [plural]}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": list(validations), **spec}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy"}
    return {**kind, "metadata": {"name": name}, "spec": spec}


def binding(name: str, namespace: str, *actions: str, **spec: Any) -> Object:
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    spec = {"policyName": name, "validationActions": list(actions) or ["Deny"], "matchResources": here, **spec}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding"}
    return {**kind, "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def enforce(api: Api) -> Enforce:
    """`enforce(policy, binding)`: in the test's namespace, and wait until a real server does so.

    Every policy gets one more rule, by which the test sees that it is in force.
    """

    def enforced(made: Object, bound: Object) -> None:
        made["spec"]["validations"].append({"expression": f"request.name != 'probe-{api.namespace}'"})
        succeeded(api.http.post(POLICIES, json=made))
        succeeded(api.http.post(BINDINGS, json=bound))
        plural = made["spec"]["matchConstraints"]["resourceRules"][0]["resources"][0]
        name = f"probe-{api.namespace}"
        body = config_map(name) if plural == "configmaps" else deployment(name)

        def in_force() -> bool:
            response = api.send("POST", plural, body=body, dryRun="All")
            return response.status_code == 422 or "Warning" in response.headers

        eventually(in_force, f"the policy {made['metadata']['name']} is in force")

    return enforced


def message(api: Api, words: str) -> str:
    return f"ValidatingAdmissionPolicy '{api.namespace}' with binding '{api.namespace}' denied request: {words}"


def test_a_denied_request(api: Api, enforce: Enforce) -> None:
    short = {"expression": "!has(object.data) || size(object.data) < 3", "message": "at most two entries"}
    enforce(policy(api.namespace, short), binding(api.namespace, api.namespace))
    api.create("configmaps", config_map("a", {"x": "1", "y": "1"}))
    body = config_map("b", {"x": "1", "y": "1", "z": "1"})
    status = refused(api.send("POST", "configmaps", body=body), 422, "Invalid")
    words = message(api, "at most two entries")
    assert status["message"] == f'configmaps "b" is forbidden: {words}'
    assert status["details"] == {"name": "b", "kind": "configmaps", "causes": [{"message": words}]}
    response = api.send("PATCH", "configmaps", "a", {"data": {"z": "1"}}, type=PATCHES["merge"])
    refused(response, 422, "Invalid")
    refused(api.try_apply("configmaps", {**body, "metadata": {"name": "c"}}), 422, "Invalid")


def test_other_namespaces_are_free(api: Api, enforce: Enforce) -> None:
    enforce(policy(api.namespace, {"expression": "false"}), binding(api.namespace, api.namespace))
    refused(api.send("POST", "configmaps", body=config_map("a")), 422, "Invalid")
    api.create("configmaps", config_map(f"a-{api.namespace}"), namespace="default")
    api.create("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})


def test_reasons_and_composed_messages(api: Api, enforce: Enforce) -> None:
    validation = {
        "expression": "variables.replicas <= 3",
        "messageExpression": "'at most 3 in ' + namespaceObject.metadata.name + ', not ' + string(variables.replicas)",
        "reason": "Forbidden",
    }
    spec = {"variables": [{"name": "replicas", "expression": "object.spec.replicas"}]}
    made = policy(api.namespace, validation, resources=("apps", "deployments"), **spec)
    made["spec"]["matchConstraints"]["resourceRules"][0]["operations"] = ["CREATE"]
    enforce(made, binding(api.namespace, api.namespace))
    status = refused(api.send("POST", "deployments", body=deployment("web", replicas=4)), 403, "Forbidden")
    words = message(api, f"at most 3 in {api.namespace}, not 4")
    assert status["message"] == f'deployments.apps "web" is forbidden: {words}'
    assert status["details"]["group"] == "apps"


def test_transitions_and_deletions(api: Api, enforce: Enforce) -> None:
    kept = "request.operation != 'UPDATE' || !has(oldObject.data.keep) || has(object.data.keep)"
    stays = "request.operation != 'DELETE' || !has(oldObject.data.keep)"
    enforce(
        policy(api.namespace, {"expression": kept}, {"expression": stays, "message": "it is kept"}),
        binding(api.namespace, api.namespace),
    )
    api.create("configmaps", config_map("a", {"keep": "1", "x": "1"}))
    response = api.send("PATCH", "configmaps", "a", {"data": {"keep": None}}, type=PATCHES["merge"])
    assert refused(response, 422, "Invalid")["message"].endswith(f"denied request: failed expression: {kept}")
    response = api.send("DELETE", "configmaps", "a")
    assert refused(response, 422, "Invalid")["message"].endswith("denied request: it is kept")
    api.create("configmaps", config_map("b"))
    api.delete("configmaps", "b")


def test_an_expression_that_fails(api: Api, enforce: Enforce) -> None:
    enforce(policy(api.namespace, {"expression": "object.data.size == 'small'"}), binding(api.namespace, api.namespace))
    status = refused(api.send("POST", "configmaps", body=config_map("a")), 422, "Invalid")
    words = "expression 'object.data.size == 'small'' resulted in error: no such key: size"
    assert status["message"].endswith(words)


def test_failures_may_be_ignored(api: Api, enforce: Enforce) -> None:
    made = policy(api.namespace, {"expression": "object.data.size == 'small'"}, failurePolicy="Ignore")
    enforce(made, binding(api.namespace, api.namespace))
    api.create("configmaps", config_map("a"))
    refused(api.send("POST", "configmaps", body=config_map("b", {"size": "large"})), 422, "Invalid")


def test_warnings_instead_of_denial(api: Api, enforce: Enforce) -> None:
    made = policy(api.namespace, {"expression": "false", "message": "think again"})
    enforce(made, binding(api.namespace, api.namespace, "Warn"))
    response = api.send("POST", "configmaps", body=config_map("a"))
    succeeded(response)
    name = f"'{api.namespace}' with binding '{api.namespace}'"
    expected = f'299 - "Validation failed for ValidatingAdmissionPolicy {name}: think again"'
    assert response.headers.get_list("Warning") == [expected]


def test_conditions_and_selectors(api: Api, enforce: Enforce) -> None:
    made = policy(
        api.namespace,
        {"expression": "false"},
        matchConditions=[{"name": "not-free", "expression": "!object.metadata.name.startsWith('free-')"}],
    )
    made["spec"]["matchConstraints"]["objectSelector"] = {
        "matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]
    }
    enforce(made, binding(api.namespace, api.namespace))
    api.create("configmaps", config_map("free-a"))
    api.create("configmaps", config_map("a", labels={"skip": "1"}))
    refused(api.send("POST", "configmaps", body=config_map("b")), 422, "Invalid")


def test_parameters(api: Api, enforce: Enforce) -> None:
    api.create("configmaps", config_map("limits", {"replicas": "2"}))
    made = policy(
        api.namespace,
        {"expression": "object.spec.replicas <= int(params.data.replicas)"},
        resources=("apps", "deployments"),
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
    )
    reference = {"name": "limits", "namespace": api.namespace, "parameterNotFoundAction": "Deny"}
    enforce(made, binding(api.namespace, api.namespace, paramRef=reference))
    api.create("deployments", deployment("small", replicas=0))
    refused(api.send("POST", "deployments", body=deployment("large", replicas=3)), 422, "Invalid")


# validation


def denied(response: httpx.Response) -> set[tuple[str, str]]:
    return {(field, reason.removeprefix("FieldValue")) for field, reason in causes(refused(response, 422, "Invalid"))}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"validations": []},
            {("spec.validations", "Required"), ("spec.auditAnnotations", "Required")},
        ),
        ({"validations": [{"expression": "object =="}]}, {("spec.validations[0].expression", "Invalid")}),
        ({"validations": [{"expression": "1"}]}, {("spec.validations[0].expression", "Invalid")}),
        (
            {"validations": [{"expression": "true", "reason": "Mood"}]},
            {("spec.validations[0].reason", "NotSupported")},
        ),
        ({"failurePolicy": "Maybe"}, {("spec.failurePolicy", "NotSupported")}),
        ({"matchConstraints": None}, {("spec.matchConstraints", "Required")}),
        ({"variables": [{"name": "a b", "expression": "1"}]}, {("spec.variables[0].name", "Invalid")}),
        ({"validations": [None]}, {("spec.validations[0].expression", "Required")}),
        (
            {"matchConstraints": {"resourceRules": [None]}},
            {
                (f"spec.matchConstraints.resourceRules[0].{field}", "Required")
                for field in ("apiGroups", "apiVersions", "operations", "resources")
            },
        ),
        (
            {
                "matchConstraints": {
                    "resourceRules": [EVERYTHING],
                    "objectSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]},
                }
            },
            {("spec.matchConstraints.objectSelector.matchExpressions[0].operator", "Invalid")},
        ),
    ],
    ids=["none", "syntax", "type", "reason", "failures", "matches", "variable", "null", "null rule", "selector"],
)
def test_policies_are_validated(api: Api, change: Object, expected: set[tuple[str, str]]) -> None:
    body = policy(api.namespace, {"expression": "true"})
    body["spec"] |= change
    assert denied(api.http.post(POLICIES, json=body, params={"dryRun": "All"})) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"policyName": ""}, ("spec.policyName", "Required")),
        ({"validationActions": []}, ("spec.validationActions", "Required")),
        ({"validationActions": ["Deny", "Warn"]}, ("spec.validationActions", "Invalid")),
        ({"validationActions": ["Frown"]}, ("spec.validationActions[0]", "NotSupported")),
    ],
    ids=["policy", "no action", "both", "action"],
)
def test_bindings_are_validated(api: Api, change: Object, expected: tuple[str, str]) -> None:
    body = binding(api.namespace, api.namespace)
    body["spec"] |= change
    assert denied(api.http.post(BINDINGS, json=body, params={"dryRun": "All"})) == {expected}


def test_defaults(api: Api) -> None:
    body = policy(api.namespace, {"expression": "true"})
    made = succeeded(api.http.post(POLICIES, json=body, params={"dryRun": "All"}))
    assert made["spec"]["failurePolicy"] == "Fail"
    constraints = made["spec"]["matchConstraints"]
    assert (constraints["matchPolicy"], constraints["namespaceSelector"], constraints["objectSelector"]) == (
        "Equivalent",
        {},
        {},
    )
    assert constraints["resourceRules"][0]["scope"] == "*"
