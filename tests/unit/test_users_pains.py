"""What users of the other chart ran into has tests here: the table in docs/adoption.md, held against the tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adoption.md").read_text(encoding="utf-8")
FACTS = ROOT.parent / "shared" / "reference" / "FACTS.md"

NUMBER = re.compile(r"\b\d{3,4}\b")

TESTS: dict[str, tuple[str, ...]] = {
    "277: a wrong control plane URL leaves deployments stuck, with a stack trace in a log": (
        "tests/unit/test_settings.py::test_a_mistake_names_the_setting_the_value_and_the_fix",
        "tests/integration/test_wrong_control_plane.py::test_a_wrong_url_is_told_in_one_line_and_deployments_are_left_as_they_are",
        "tests/integration/test_wrong_control_plane.py::test_the_right_url_makes_it_good",
        "tests/integration/test_control_plane_adapter.py::test_a_url_that_leads_nowhere",
        "tests/integration/test_doctor.py::TestControlPlane::test_nothing_at_its_url",
        "tests/integration/test_doctor.py::TestControlPlane::test_another_server_at_both_urls",
    ),
    "378: the health check cannot reach the ingress from inside the cluster": (
        "tests/unit/listener/test_lifecycle.py::test_a_hostname_that_is_not_reached_from_inside_names_both_mends",
        "tests/unit/listener/test_lifecycle.py::test_the_health_check_can_be_switched_off",
        "tests/integration/test_health.py::test_an_address_is_connected_to_while_the_hostname_is_asked_for",
        "tests/integration/test_doctor.py::TestHostname::test_unreachable",
        "tests/integration/test_doctor.py::TestHostname::test_reached_through_an_address_inside_the_cluster",
    ),
    "689: installations that share a Redis work on each other's jobs": (
        "tests/chart/test_rendering.py::test_two_installations_share_no_prefix_unless_told_to",
        "tests/unit/test_workers.py::test_names_carry_the_prefix_of_the_installation",
        "tests/contract/test_redis_log.py::test_two_installations_on_one_redis_do_not_see_each_other",
        "tests/installation/test_several_data_planes.py::test_two_workspaces_share_a_cluster_and_a_redis_and_never_meet",
    ),
    "575: `automountServiceAccountToken` is not on the pod": (
        "tests/chart/test_rendering.py::test_the_token_of_an_account_is_mounted_or_not_as_its_values_say",
    ),
    "575: extra volume mounts are indented wrongly": (
        "tests/chart/test_rendering.py::test_volumes_of_everybody_and_of_one",
    ),
    "575: Roles are named after an account that already exists": (
        "tests/chart/test_rendering.py::test_a_role_keeps_its_name_beside_an_account_that_exists",
    ),
    "575: an Ingress in another namespace": (
        "tests/unit/operator/test_manifests.py::test_an_ingress_in_another_namespace_leads_to_an_external_name_beside_it",
        "tests/e2e/test_routes.py::test_an_ingress_in_another_namespace",
        "tests/chart/test_ingress_elsewhere.py::test_the_life_of_a_deployment_needs_what_is_granted_beside_the_ingress_and_no_more",
    ),
    "927, 1027: the operator lacks permissions that a new version needs": (
        "tests/chart/test_permissions.py::test_the_life_of_a_deployment_needs_what_is_granted_and_no_more",
        "tests/chart/test_permissions.py::test_roles_are_what_the_processes_say_they_need",
        "tests/integration/test_doctor.py::TestPermissions::test_a_role_that_allows_too_little",
    ),
    "927: ServiceAccounts and SecretProviderClasses of Agent Servers": (
        "tests/unit/operator/test_manifests.py::test_server_fields_reach_both_deployments",
        "tests/unit/operator/test_operator_status.py::test_a_passed_progress_deadline_and_pods_that_cannot_be_created_are_reported",
        "tests/unit/operator/test_managed.py::test_all_pods_use_the_account_that_was_made_before_them",
        "tests/unit/operator/test_managed.py::test_a_disabled_kind_is_refused_with_the_value_to_set",
    ),
    "1027: PodDisruptionBudgets of Agent Servers": (
        "tests/unit/operator/test_disruption_budgets.py::test_a_workload_of_two_replicas_has_a_budget_and_one_of_one_has_none",
    ),
}
"""`<issues>: <problem>`, as in the table → the tests that prove that the problem does not occur here."""


def problems() -> list[str]:
    """Return `<issues>: <problem>` of every row of the table."""
    table = PAGE.partition("| issue | problem | here |")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    return [f"{issues}: {problem}" for issues, problem, _ in rows]


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the tests of a file, those of a class as `Class::test`."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(found)


def test_the_table_and_the_tests_have_the_same_problems() -> None:
    assert problems() == list(TESTS)


@pytest.mark.parametrize("problem", TESTS)
def test_a_problem_has_tests_that_exist(problem: str) -> None:
    assert TESTS[problem], f"{problem}: no test is named"
    for test in TESTS[problem]:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), f"{problem}: there is no {file}"
        assert name in names_in(file), f"{problem}: {file} has no {name}"


@pytest.mark.skipif(not FACTS.exists(), reason=f"{FACTS} is not here")
def test_every_known_problem_is_in_the_table() -> None:
    line = FACTS.read_text(encoding="utf-8").partition("What its users ran into")[2].partition("\n- ")[0]
    known = {number for group in re.findall(r"\(([\d, ]+)\)", line) for number in NUMBER.findall(group)}

    assert known
    assert known <= {number for problem in problems() for number in NUMBER.findall(problem.partition(":")[0])}
