"""schemathesis tests every supported route against the public OpenAPI document of the hosted control plane.

It generates valid and invalid requests, single ones and sequences that pass ids on. Each answer must have a documented
status, content type and body. Invalid data must be refused and valid data accepted, deleted resources must not exist,
authentication must be enforced, and no answer may be a 5xx. All checks but one are enabled. The document leaves some
behaviour of a server open. There the copy that is used here is completed (`completed`), or a check accepts one more
status for the operations that need it (`CONFIG`), each with the reason.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis.internal.conjecture.utils import many
from schemathesis import cli

from sandbox.control_plane.server import ControlPlane

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "control-plane-openapi.json"
pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason=f"the control plane's document is not at {REFERENCE}")

WORKSPACE = str(uuid.uuid4())
SUPPORTED = ("/v2/deployments", "/v2/listeners")
Json = dict[str, Any]

CONFIG = """
[generation]
# Every run sends the same requests, so that a new failure comes from a change of the code.
deterministic = true
database = "none"
# Unknown query parameters are ignored, as `langgraph deploy` relies on: it sends `name`, which the document lacks.
allow-extra-parameters = false

[phases.stateful]
generation.max-examples = 4

[checks]
# This check takes a refused DELETE (no key, a bad parameter) for a successful one, because it uses the status of the
# request before (schemathesis 4.15). test_control_plane.py checks that deleted resources do not exist.
use_after_free.enabled = false

[[operations]]
# Names, images and placement have rules beyond the schema; the document has 400 for them.
include-name = ["POST /v2/deployments", "PATCH /v2/deployments/{deployment_id}"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "404", "409", "400"]

[[operations]]
# In a query string, an empty list is the same as a missing one, and the list is required.
include-name = "DELETE /v2/deployments"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "404", "422"]

[[operations]]
# The document says "Validated based on compute_type" and has only 422 for it.
include-name = ["POST /v2/listeners", "PATCH /v2/listeners/{listener_id}"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "404", "409", "422"]
"""


def completed() -> Json:
    """Return the supported part of the document, completed where it leaves behaviour open."""
    document: Json = json.loads(REFERENCE.read_text())
    document["paths"] = {path: item for path, item in document["paths"].items() if path.startswith(SUPPORTED)}
    # The operations name three security schemes as alternatives, but the document defines none of them. Only the key
    # matters: a bearer token is another way to send it, and it determines the workspace (see test_control_plane.py).
    document["components"]["securitySchemes"] = {"API Key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}}
    for item in document["paths"].values():
        for operation in item.values():
            # Every operation requires a key; the document has no answer for a request without one.
            operation["security"] = [{"API Key": []}]
            operation["responses"].setdefault("401", {"description": "no or an unknown key"})
            operation["responses"].setdefault("403", {"description": "the key of another workspace"})
    # The document has no status for a name that is taken.
    document["paths"]["/v2/deployments"]["post"]["responses"]["409"] = {"description": "the name is taken"}
    # Only the text of the operation describes this status.
    document["paths"]["/v2/deployments"]["delete"]["responses"]["207"] = {"description": "some failed"}
    _without_caps(document["components"]["schemas"]["ResourceSpec-Input"])
    return document


def _without_caps(resource_spec: Json) -> None:
    """Remove the upper bounds of cores: they fit the hosted service's nodes, and a data plane's may be larger."""
    for field in resource_spec["properties"].values():
        for alternative in field.get("anyOf", ()):
            if alternative.get("type") == "number":
                alternative.pop("maximum", None)


@pytest.fixture(autouse=True, scope="module")
def mended() -> None:
    """hypothesis-jsonschema 0.23 draws objects with `many.more()`, which Hypothesis 6.170 replaced by iteration."""
    if hasattr(many, "more"):
        return

    def more(self: Any) -> bool:
        if not hasattr(self, "_steps"):
            self.__enter__()
            self._steps = iter(self)
        if next(self._steps, self) is not self:
            return True
        self.__exit__(None, None, None)
        return False

    many.more = more  # type: ignore[method-assign]


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """A control plane without listeners: with one, every request that creates a deployment would have to name it."""
    with ControlPlane({"key": WORKSPACE}) as plane:
        yield plane


@pytest.fixture
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plane.url, headers=plane.headers()) as http:
        yield http


@pytest.fixture
def realistic(http: httpx.Client) -> Iterator[None]:
    """Changes requests before they are sent: otherwise most answers would be 404 and 400.

    In sequences, where ids come from earlier answers, valid creations keep to the rules. Elsewhere most of the
    well-formed ids in paths are replaced by existing ones.
    """

    def before_call(_context: object, case: schemathesis.Case, _arguments: object) -> None:
        assert case.meta is not None
        if case.meta.phase.name.value == "stateful":
            if case.operation.label == "POST /v2/deployments" and case.meta.generation.mode.is_positive:
                assert isinstance(case.body, dict)
                case.body = keep_to_the_rules(case.body, creation=True)
            return
        # Changed parameters are validated again, without their format: an id that is not a UUID must stay unchanged.
        ids = case.path_parameters or {}
        if ids and all(is_uuid(value) and uuid.UUID(str(value)).int % 4 for value in ids.values()):
            known = existing_listener(http) if "listener_id" in ids else existing_deployment(http)
            case.path_parameters = {name: known[name] for name in ids}

    schemathesis.hook(before_call)
    yield
    schemathesis.hooks.unregister(before_call)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("paths", "operations"), [("^/v2/deployments", 9), ("^/v2/listeners", 5)])
def test_every_answer_is_as_documented(
    plane: ControlPlane, realistic: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: str, operations: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("document.json").write_text(json.dumps(completed()))
    Path("schemathesis.toml").write_text(CONFIG)
    arguments = ["run", "document.json", "--url", plane.url, "-H", "X-Api-Key: key", "--include-path-regex", paths]
    done = CliRunner().invoke(cli.schemathesis, [*arguments, "--max-examples", "10", "--checks", "all"])
    print(done.output)
    assert done.exit_code == 0
    assert f"Tested: {operations}\n" in done.output


@pytest.mark.parametrize(
    ("path", "method", "accepted"),
    [("/v2/deployments", "POST", 201), ("/v2/deployments/{deployment_id}", "PATCH", 200)],
)
def test_whatever_keeps_to_the_rules_is_accepted(http: httpx.Client, path: str, method: str, accepted: int) -> None:
    """Generated bodies, with valid values for the few fields that have rules beyond the schema."""
    operation = schemathesis.openapi.from_dict(completed())[path][method]

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy())
    def accept(case: schemathesis.Case) -> None:
        assert isinstance(case.body, dict)
        form = keep_to_the_rules(case.body, creation=method == "POST")
        answer = http.request(method, path.format(**existing_deployment(http)), json=form)
        assert answer.status_code == accepted, answer.text
        operation.validate_response(answer)

    accept()


def is_uuid(value: object) -> bool:
    try:
        return bool(uuid.UUID(str(value)))
    except ValueError:
        return False


def existing_deployment(http: httpx.Client) -> dict[str, str]:
    """Return ids for path parameters: of the newest deployment, created if there is none, and its latest revision."""
    listed = http.get("/v2/deployments", params={"limit": 1}).json()["resources"]
    made = listed[0] if listed else http.post("/v2/deployments", json=keep_to_the_rules({}, creation=True)).json()
    return {"deployment_id": made["id"], "revision_id": made["latest_revision_id"]}


def existing_listener(http: httpx.Client) -> dict[str, str]:
    listed = http.get("/v2/listeners", params={"limit": 1}).json()["resources"]
    form = {"compute_type": "k8s", "compute_id": "cluster", "compute_config": {"k8s_namespaces": ["agents"]}}
    return {"listener_id": (listed[0] if listed else http.post("/v2/listeners", json=form).json())["id"]}


def keep_to_the_rules(body: Json, *, creation: bool) -> Json:
    """Return the body with a valid name, image and variables, without fields that need a listener or another source."""
    body = copy.deepcopy(body)
    for name in ("name", "source", "revision_source"):
        body.pop(name, None)
    config = body.get("source_config") or {}
    foreign = {"integration_id", "repo_url", "build_on_push", "install_command", "build_command"}
    placed = {"listener_id", "listener_config", "deployment_type"}
    config = {name: value for name, value in config.items() if name not in foreign | placed}
    spec = config.get("resource_spec") or {}
    for name, value in spec.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            spec[name] = min(max(value, 0.1), 8) if "cpu" in name else min(abs(value), 1000)
    for prefix in ("", "queue_"):
        spec.pop(f"{prefix}min_scale", None)
    if spec.get("image_pull_secrets"):
        spec["image_pull_secrets"] = [{"name": "registry"}]
    body["source_config"] = config
    body["source_revision_config"] = {"image_uri": "sandbox.local/app:1"}
    number = iter(range(1000))
    for kind in ("secrets", "secret_references"):
        for part in body.get(kind) or ():
            part["name"] = f"VARIABLE_{next(number)}"
    if creation:
        body |= {"name": f"a{uuid.uuid4().hex}", "source": "external_docker"}
        body.setdefault("secrets", [])
    return body
