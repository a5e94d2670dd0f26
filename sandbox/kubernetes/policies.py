"""ValidatingAdmissionPolicies: CEL expressions that a request must satisfy if a binding enables the policy for it.

A policy has the expressions and matches requests. A binding narrows the requests, names parameters, and decides whether
a failure denies the request or is only a warning. Every write reads both from the store, so they apply at once; a real
server takes about a second. Missing: `authorizer`, audit annotations, type checking in the policy's status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.kubernetes.expressions import (
    BrokenExpression,
    EvaluationError,
    Variables,
    compile_expression,
    variables,
)
from sandbox.kubernetes.rules import to_cel
from sandbox.kubernetes.schema import Schema
from sandbox.kubernetes.selectors import OPERATORS, object_selector
from sandbox.kubernetes.status import ApiError, Cause, qualified, required, unsupported, wrong

Object = dict[str, Any]

GROUP = "admissionregistration.k8s.io"
POLICIES = f"validatingadmissionpolicies.{GROUP}"
BINDINGS = f"validatingadmissionpolicybindings.{GROUP}"
_CODES = {"Invalid": 422, "Forbidden": 403, "Unauthorized": 401, "RequestEntityTooLarge": 413}
_ACTIONS = ("Deny", "Warn", "Audit")


def _environment(policy: Object) -> Variables:
    """Return the variables of a policy's expressions; all have dynamic types."""
    names = ["object", "oldObject", "request", "namespaceObject", "variables"]
    if policy["spec"].get("paramKind"):
        names.append("params")
    return variables((name, "any") for name in names)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A write request, as policies see it."""

    operation: str
    """CREATE, UPDATE or DELETE."""
    group: str
    version: str
    plural: str
    kind: str
    schema: Schema
    name: str
    namespace: Object | None
    """The stored namespace of the object; None for cluster-scoped ones."""
    new: Object | None
    old: Object | None
    subresource: str
    dry_run: bool

    @property
    def resource(self) -> str:
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural

    def values(self) -> Object:
        """Return the variables of expressions that describe the request."""
        described = {
            "kind": {"group": self.group, "version": self.version, "kind": self.kind},
            "resource": {"group": self.group, "version": self.version, "resource": self.plural},
            "subResource": self.subresource,
            "name": self.name,
            "namespace": self.namespace["metadata"]["name"] if self.namespace else "",
            "operation": self.operation,
            "userInfo": {"username": "sandbox-admin", "groups": ["system:masters", "system:authenticated"]},
            "dryRun": self.dry_run,
        }
        return {
            "object": None if self.new is None else to_cel(self.schema, self.new),
            "oldObject": None if self.old is None else to_cel(self.schema, self.old),
            "request": {("__namespace__" if name == "namespace" else name): at for name, at in described.items()}
            | {"namespace": described["namespace"]},
            "namespaceObject": self.namespace,
        }


# which requests a policy matches


def _among(listed: Sequence[str], value: str) -> bool:
    return "*" in listed or value in listed


def _resource_among(listed: Sequence[str], attempt: Attempt) -> bool:
    plural, subresource = attempt.plural, attempt.subresource
    known = {attempt.resource, "*/*", f"{plural}/*", "*" if not subresource else f"*/{subresource}"}
    return any(name in known for name in listed)


def _rule_matches(rule: Object, attempt: Attempt) -> bool:
    scope = rule.get("scope", "*")
    names = rule.get("resourceNames") or ()
    return (
        _among(rule.get("apiGroups") or (), attempt.group)
        and _among(rule.get("apiVersions") or (), attempt.version)
        and _among(rule.get("operations") or (), attempt.operation)
        and _resource_among(rule.get("resources") or (), attempt)
        and (scope == "*" or (scope == "Namespaced") == (attempt.namespace is not None))
        and (not names or attempt.name in names)
    )


def _matches(constraints: Object, attempt: Attempt, all_resources: bool) -> bool:
    """Whether constraints match a request; `all_resources`: without rules they match all resources (of a binding)."""
    rules = constraints.get("resourceRules") or ()
    if any(_rule_matches(rule, attempt) for rule in constraints.get("excludeResourceRules") or ()):
        return False
    if not (any(_rule_matches(rule, attempt) for rule in rules) or (not rules and all_resources)):
        return False
    return _namespace_selected(constraints, attempt) and _object_selected(constraints, attempt)


def _labels(obj: Object | None) -> dict[str, str]:
    return (obj or {"metadata": {}})["metadata"].get("labels") or {}


def _selected(selector: Object | None, labels: dict[str, str]) -> bool:
    return not selector or object_selector(selector)(labels)


def _namespace_selected(constraints: Object, attempt: Attempt) -> bool:
    namespace = attempt.namespace
    if attempt.plural == "namespaces" and not attempt.group:
        namespace = attempt.new or attempt.old
    return namespace is None or _selected(constraints.get("namespaceSelector"), _labels(namespace))


def _object_selected(constraints: Object, attempt: Attempt) -> bool:
    selector = constraints.get("objectSelector")
    return any(_selected(selector, _labels(obj)) for obj in (attempt.new, attempt.old) if obj is not None)


# evaluation


@dataclass(frozen=True)
class Failure:
    """A validation that a request fails."""

    message: str
    reason: str = "Invalid"


def _failures(policy: Object, values: Object) -> Iterator[Failure]:
    """Yield the failures of a request. With failurePolicy Ignore, an expression with an error is not a failure."""
    spec, known = policy["spec"], _environment(policy)
    ignore = spec.get("failurePolicy") == "Ignore"
    try:
        conditions = spec.get("matchConditions") or ()
        if not all(compile_expression(at["expression"], known).value(values) is True for at in conditions):
            return
    except (BrokenExpression, EvaluationError) as error:
        if not ignore:
            yield Failure(f"matchConditions failed: {error}")
        return
    values = {**values, "variables": {}}
    for variable in spec.get("variables") or ():
        try:
            found = compile_expression(variable["expression"], known).value(values)
        except (BrokenExpression, EvaluationError):
            continue  # expressions that use the variable fail: there is no such key
        values["variables"][variable["name"]] = found
    for validation in spec.get("validations") or ():
        expression = validation["expression"].strip()
        try:
            if compile_expression(expression, known).value(values) is True:
                continue
        except (BrokenExpression, EvaluationError) as error:
            if not ignore:
                yield Failure(f"expression '{expression}' resulted in error: {error}")
            continue
        yield Failure(_message(validation, expression, known, values), validation.get("reason") or "Invalid")


def _message(validation: Object, expression: str, known: Variables, values: Object) -> str:
    if text := validation.get("messageExpression"):
        try:
            message = str(compile_expression(text, known).value(values)).strip()
        except (BrokenExpression, EvaluationError):
            message = ""
        if message and "\n" not in message:
            return message
    return str(validation.get("message") or f"failed expression: {expression}").strip()


class Policies:
    """The policies and bindings of a registry, applied to its writes."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def admit(self, attempt: Attempt, warnings: list[str]) -> None:
        """Evaluate all policies for a write. Raises ApiError with the policy's reason when a policy denies it."""
        bindings = self._registry.store.list(BINDINGS)
        if not bindings or f"{attempt.plural}.{attempt.group}" in (POLICIES, BINDINGS):
            return
        values: Object = {}
        for stored in bindings:
            binding = stored.object
            found = self._registry.store.get(POLICIES, "", binding["spec"].get("policyName", ""))
            if found is None or not self._applies(found.object, binding, attempt):
                continue
            values = values or attempt.values()
            self._enforce(found.object, binding, attempt, values, warnings)

    def _applies(self, policy: Object, binding: Object, attempt: Attempt) -> bool:
        constraints = policy["spec"].get("matchConstraints") or {}
        where = binding["spec"].get("matchResources") or {}
        return _matches(constraints, attempt, False) and _matches(where, attempt, True)

    def _enforce(self, policy: Object, binding: Object, attempt: Attempt, values: Object, warnings: list[str]) -> None:
        actions = binding["spec"].get("validationActions") or ()
        named = f"'{policy['metadata']['name']}' with binding '{binding['metadata']['name']}'"
        for failure in self._all_failures(policy, binding, attempt, values):
            if "Deny" in actions:
                raise _denied(attempt, f"ValidatingAdmissionPolicy {named} denied request: {failure.message}", failure)
            if "Warn" in actions:
                warnings.append(f"Validation failed for ValidatingAdmissionPolicy {named}: {failure.message}")

    def _all_failures(self, policy: Object, binding: Object, attempt: Attempt, values: Object) -> Iterator[Failure]:
        kind, reference = policy["spec"].get("paramKind"), binding["spec"].get("paramRef")
        if not kind or not reference:
            yield from _failures(policy, {**values, "params": None})
            return
        found = self._parameters(kind, reference, attempt)
        if not found and reference.get("parameterNotFoundAction", "Deny") == "Deny":
            yield Failure(
                "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
            )
        for parameters in found:
            yield from _failures(policy, {**values, "params": parameters})

    def _parameters(self, kind: Object, reference: Object, attempt: Attempt) -> list[Object]:
        served = self._registry.kinds.named(kind.get("apiVersion", ""), kind.get("kind", ""))
        if served is None:
            return []
        own = attempt.namespace["metadata"]["name"] if attempt.namespace else ""
        namespace = (reference.get("namespace") or own) if served.namespaced else ""
        found = self._registry.store.list(served.resource, namespace)
        if reference.get("name"):
            found = [stored for stored in found if stored.name == reference["name"]]
        else:
            found = [stored for stored in found if _selected(reference.get("selector"), _labels(stored.object))]
        return [to_cel(served.schema, stored.object) for stored in found]


def _denied(attempt: Attempt, words: str, failure: Failure) -> ApiError:
    details = {"name": attempt.name, "group": attempt.group, "kind": attempt.plural}
    shown: Object = {key: value for key, value in details.items() if value} | {"causes": [{"message": words}]}
    resource = qualified(attempt.group, attempt.plural)
    text = f'{resource} "{attempt.name}" is forbidden: {words}'
    return ApiError(_CODES[failure.reason], failure.reason, text, shown)


# validation of policies and bindings

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def check_policy(policy: Object) -> Iterator[Cause]:
    """Yield what is wrong with a ValidatingAdmissionPolicy."""
    spec = policy.get("spec") or {}
    if spec.get("failurePolicy") not in (None, "Fail", "Ignore"):
        yield unsupported("spec.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore"))
    if not spec.get("matchConstraints"):
        yield required("spec.matchConstraints")
    elif not spec["matchConstraints"].get("resourceRules"):
        yield required("spec.matchConstraints.resourceRules")
    yield from _check_constraints(spec.get("matchConstraints") or {}, "spec.matchConstraints")
    if not spec.get("validations") and not spec.get("auditAnnotations"):
        for name in ("validations", "auditAnnotations"):
            yield required(f"spec.{name}", "validations or auditAnnotations must contain at least one item")
    for index, variable in enumerate(_entries(spec, "variables")):
        if not _IDENTIFIER.match(variable.get("name", "")):
            yield wrong(f"spec.variables[{index}].name", variable.get("name"), "name is not a valid CEL identifier")
        yield from _check_expression(policy, variable, f"spec.variables[{index}]", ())
    for index, condition in enumerate(_entries(spec, "matchConditions")):
        yield from _check_expression(policy, condition, f"spec.matchConditions[{index}]", ("bool", "dyn"))
    for index, validation in enumerate(_entries(spec, "validations")):
        yield from _check_expression(policy, validation, f"spec.validations[{index}]", ("bool", "dyn"))
        if validation.get("reason") and validation["reason"] not in _CODES:
            yield unsupported(f"spec.validations[{index}].reason", validation["reason"], tuple(_CODES))


def _entries(holder: Object, name: str) -> list[Object]:
    """Return the entries of a list of objects; null counts as an empty object."""
    return [entry or {} for entry in holder.get(name) or ()]


def _check_constraints(constraints: Object, at: str) -> Iterator[Cause]:
    for name in ("resourceRules", "excludeResourceRules"):
        for index, rule in enumerate(_entries(constraints, name)):
            for field in ("apiGroups", "apiVersions", "operations", "resources"):
                if not rule.get(field):
                    yield required(f"{at}.{name}[{index}].{field}")
    for name in ("namespaceSelector", "objectSelector"):
        for index, expression in enumerate(_entries(constraints.get(name) or {}, "matchExpressions")):
            if expression.get("operator") not in OPERATORS:
                words = "not a valid selector operator"
                yield wrong(f"{at}.{name}.matchExpressions[{index}].operator", expression.get("operator", ""), words)


def _check_expression(policy: Object, holder: Object, at: str, types: Sequence[str]) -> Iterator[Cause]:
    text = str(holder.get("expression") or "").strip()
    if not text:
        yield required(f"{at}.expression", "expression is not specified")
        return
    try:
        found = compile_expression(text, _environment(policy))
    except BrokenExpression as error:
        yield wrong(f"{at}.expression", text, str(error))
        return
    if types and found.type not in types:
        yield wrong(f"{at}.expression", text, "must evaluate to bool")


def check_binding(binding: Object) -> Iterator[Cause]:
    """Yield what is wrong with a ValidatingAdmissionPolicyBinding."""
    spec = binding.get("spec") or {}
    if not spec.get("policyName"):
        yield required("spec.policyName")
    yield from _check_constraints(spec.get("matchResources") or {}, "spec.matchResources")
    actions = spec.get("validationActions") or ()
    if not actions:
        yield required("spec.validationActions", "at least one validation action is required")
    for index, action in enumerate(actions):
        if action not in _ACTIONS:
            yield unsupported(f"spec.validationActions[{index}]", action, _ACTIONS)
    if "Deny" in actions and "Warn" in actions:
        words = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"  # noqa: E501
        yield wrong("spec.validationActions", actions, words)
