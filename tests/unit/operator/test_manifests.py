"""The objects of an LGP, field by field."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from engine.errors import InvalidResource
from engine.operator import manifests, templates
from engine.operator.config import Gateway, OperatorConfig, SharedIngress, Templates
from engine.operator.lgp import Lgp, parse_lgp
from engine.ports import Manifest, ObjectKey

NAME = "hello-0123456789abcdef0123456789abcdef"
IMAGE = "registry.example/hello@sha256:abc"
CONFIG = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com"))


def lgp(server: dict[str, Any] | None = None, name: str = NAME, **spec: Any) -> Lgp:
    return parse_lgp("team", name, "uid-1", {"serverSpec": {"image": IMAGE, **(server or {})}, **spec})


def made(one: Lgp, config: OperatorConfig = CONFIG) -> dict[str, Manifest]:
    """The objects by `<kind>/<name without the LGP's>`."""
    keys = [(ObjectKey.of(manifest), manifest) for manifest in manifests.objects(one, config)]
    return {f"{key.kind}/{key.name.removeprefix(manifests.object_names(one, config).server)}": it for key, it in keys}


def container(manifest: Manifest) -> dict[str, Any]:
    first: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return first


def env(manifest: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(manifest)["env"]}


def pod(manifest: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def test_everything_in_the_order_of_application() -> None:
    one = lgp(database={"enabled": True}, redis={"enabled": True})
    assert list(made(one)) == [
        "Service/-db",
        "StatefulSet/-db",
        "Service/-redis",
        "Deployment/-redis",
        "Deployment/",
        "Deployment/-queue",
        "Service/",
    ]


def test_without_queue_database_and_redis_a_server_is_left() -> None:
    assert list(made(lgp({"queueEnabled": False}))) == ["Deployment/", "Service/"]


def test_every_object_and_pod_belongs_to_the_lgp() -> None:
    one = lgp(database={"enabled": True}, redis={"enabled": True}, autoscaling={"enabled": True})
    for manifest in manifests.objects(one, CONFIG):
        metadata = manifest["metadata"]
        assert metadata["namespace"] == "team"
        assert metadata["labels"]["agentplane.dev/lgp"] == NAME
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "agentplane"
        assert metadata["ownerReferences"] == [
            {
                "apiVersion": "apps.langchain.ai/v1alpha1",
                "kind": "LGP",
                "name": NAME,
                "uid": "uid-1",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
        template = manifest["spec"].get("template")
        assert template is None or template["metadata"]["labels"]["agentplane.dev/lgp"] == NAME
    claim = made(one)["StatefulSet/-db"]["spec"]["volumeClaimTemplates"][0]
    assert claim["metadata"]["labels"]["agentplane.dev/lgp"] == NAME


# --- the Agent Server --------------------------------------------------------------------------------------


def test_server_fields_reach_both_deployments() -> None:
    one = lgp(
        {
            "replicas": 3,
            "serviceAccountName": "runner",
            "imagePullSecrets": [{"name": "registry"}],
            "initContainers": [{"name": "migrate", "image": "migrate:1"}],
            "sidecars": [{"name": "proxy", "image": "proxy:1"}],
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            "env": [{"name": "MODEL", "value": "big"}],
        }
    )
    for deployment in (made(one)["Deployment/"], made(one)["Deployment/-queue"]):
        assert deployment["spec"]["replicas"] == 3
        assert pod(deployment)["serviceAccountName"] == "runner"
        assert pod(deployment)["imagePullSecrets"] == [{"name": "registry"}]
        assert pod(deployment)["initContainers"][0]["name"] == "migrate"
        assert [it["name"] for it in pod(deployment)["containers"]] == ["api-server", "proxy"]
        assert pod(deployment)["volumes"] == [{"name": "cache", "emptyDir": {}}]
        assert container(deployment)["volumeMounts"] == [{"name": "cache", "mountPath": "/cache"}]
        assert container(deployment)["image"] == IMAGE
        assert env(deployment)["MODEL"] == "big"


def test_queue_workers_have_their_own_command_and_resources() -> None:
    one = lgp(
        {
            "resources": {"requests": {"cpu": "1"}},
            "queueResources": {"requests": {"cpu": "2"}, "limits": {"memory": "2048Mi"}},
        }
    )
    queue = container(made(one)["Deployment/-queue"])
    assert queue["command"] == ["/storage/queue_entrypoint.sh"]
    assert queue["resources"] == {"requests": {"cpu": "2"}, "limits": {"memory": "2Gi"}}
    assert container(made(one)["Deployment/"])["resources"] == {"requests": {"cpu": "1"}}


def test_queue_workers_without_resources_have_those_of_the_server() -> None:
    one = lgp({"resources": {"limits": {"cpu": "1"}}})
    assert container(made(one)["Deployment/-queue"])["resources"] == {"limits": {"cpu": "1"}}


def test_service_leads_to_api_servers_only() -> None:
    objects = made(lgp())
    selector = objects["Service/"]["spec"]["selector"].items()
    assert selector <= objects["Deployment/"]["spec"]["template"]["metadata"]["labels"].items()
    assert not selector <= objects["Deployment/-queue"]["spec"]["template"]["metadata"]["labels"].items()


def test_a_rollout_adds_before_it_takes_away() -> None:
    strategy = made(lgp())["Deployment/"]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}}


def test_crashes_leave_their_last_words_in_the_pod_status() -> None:
    one = lgp({"sidecars": [{"name": "proxy", "image": "p", "terminationMessagePolicy": "File"}]})
    policies = [it["terminationMessagePolicy"] for it in pod(made(one)["Deployment/"])["containers"]]
    assert policies == ["FallbackToLogsOnError", "File"]


def test_top_level_metadata_and_placement_reach_every_pod() -> None:
    one = lgp(
        labels={"team": "search"},
        annotations={"cost": "42"},
        nodeSelector={"pool": "agents"},
        tolerations=[{"key": "agents", "operator": "Exists"}],
        affinity={"nodeAffinity": {}},
        database={"enabled": True},
        redis={"enabled": True},
    )
    workloads = [it for it in manifests.objects(one, CONFIG) if "template" in it["spec"]]
    assert len(workloads) == 4
    for manifest in workloads:
        for metadata in (manifest["metadata"], manifest["spec"]["template"]["metadata"]):
            assert metadata["labels"]["team"] == "search"
            assert metadata["annotations"] == {"cost": "42"}
        assert pod(manifest)["nodeSelector"] == {"pool": "agents"}
        assert pod(manifest)["tolerations"] == [{"key": "agents", "operator": "Exists"}]
        assert pod(manifest)["affinity"] == {"nodeAffinity": {}}


def test_server_metadata_stays_with_the_server() -> None:
    objects = made(lgp({"labels": {"tier": "api"}, "annotations": {"digest": "d1"}}, redis={"enabled": True}))
    for name in ("Deployment/", "Deployment/-queue"):
        assert objects[name]["spec"]["template"]["metadata"]["labels"]["tier"] == "api"
        assert objects[name]["spec"]["template"]["metadata"]["annotations"] == {"digest": "d1"}
    assert "tier" not in objects["Deployment/-redis"]["spec"]["template"]["metadata"]["labels"]


def test_labels_of_an_lgp_cannot_tear_a_service_from_its_pods() -> None:
    one = lgp({"labels": {"app": "mine", "agentplane.dev/lgp": "other"}}, labels={"app": "yours"})
    labels = made(one)["Deployment/"]["spec"]["template"]["metadata"]["labels"]
    assert labels["app"] == NAME
    assert labels["agentplane.dev/lgp"] == NAME


def test_a_sidecar_may_not_take_the_place_of_the_server() -> None:
    with pytest.raises(InvalidResource, match=r"team/.*: spec\.serverSpec\.sidecars: .*'api-server'"):
        made(lgp({"sidecars": [{"name": "api-server", "image": "x"}]}))


# --- environment -------------------------------------------------------------------------------------------


def test_the_platform_says_where_postgres_and_redis_are() -> None:
    one = lgp(database={"enabled": True, "secretName": "pg"}, redis={"enabled": True})
    for name in ("Deployment/", "Deployment/-queue"):
        variables = env(made(one)[name])
        uri = (
            f"postgresql://postgres:$(POSTGRES_PASSWORD)@{NAME}-db.team.svc.cluster.local:5432/postgres?sslmode=disable"
        )
        assert variables["POSTGRES_URI"] == uri
        assert variables["DATABASE_URI"] == uri
        assert variables["REDIS_URI"] == f"redis://{NAME}-redis.team.svc.cluster.local:6379"
        assert variables["POSTGRES_PASSWORD"] == {"secretKeyRef": {"name": "pg", "key": "POSTGRES_PASSWORD"}}
        order = list(variables)
        assert order.index("POSTGRES_PASSWORD") < order.index("POSTGRES_URI"), "references look back only"


@pytest.mark.parametrize(
    "custom",
    [
        {"value": "postgresql://elsewhere"},
        {"valueFrom": {"secretKeyRef": {"name": "s", "key": "POSTGRES_URI_CUSTOM"}}},
    ],
)
def test_a_postgres_of_its_own_means_none_is_made(custom: dict[str, Any]) -> None:
    one = lgp({"env": [{"name": "POSTGRES_URI_CUSTOM", **custom}]}, database={"enabled": True})
    variables = env(made(one)["Deployment/"])
    assert "StatefulSet/-db" not in made(one)
    assert manifests.credentials(one, CONFIG) == []
    assert variables["POSTGRES_URI"] == variables["DATABASE_URI"] == "$(POSTGRES_URI_CUSTOM)"
    assert list(variables).index("POSTGRES_URI_CUSTOM") < list(variables).index("POSTGRES_URI")


def test_a_redis_of_its_own_means_none_is_made() -> None:
    one = lgp({"env": [{"name": "REDIS_URI_CUSTOM", "value": "redis://elsewhere"}]}, redis={"enabled": True})
    assert "Deployment/-redis" not in made(one)
    assert env(made(one)["Deployment/"])["REDIS_URI"] == "$(REDIS_URI_CUSTOM)"


def own_redis(*more: dict[str, Any], name: str = NAME) -> Lgp:
    return lgp({"env": [{"name": "REDIS_URI_CUSTOM", "value": "redis://shared"}, *more]}, name)


PREFIXED = CONFIG.model_copy(update={"redis_key_prefix": True})


def test_agent_servers_on_one_redis_of_their_own_tell_their_keys_apart() -> None:
    other = "bye-0123456789abcdef0123456789abcdef"
    for deployment in ("Deployment/", "Deployment/-queue"):
        assert env(made(own_redis(), PREFIXED)[deployment])["REDIS_KEY_PREFIX"] == f"team:{NAME}:"
        assert env(made(own_redis(name=other), PREFIXED)[deployment])["REDIS_KEY_PREFIX"] == f"team:{other}:"


@pytest.mark.parametrize("prefix", [{"value": "mine"}, {"value": ""}, {"valueFrom": {"secretKeyRef": {"name": "s"}}}])
def test_a_key_prefix_of_the_deployment_stands_be_it_empty(prefix: dict[str, Any]) -> None:
    mine = {"name": "REDIS_KEY_PREFIX", **prefix}
    variables = container(made(own_redis(mine), PREFIXED)["Deployment/"])["env"]
    assert [one for one in variables if one["name"] == "REDIS_KEY_PREFIX"] == [
        {name: value for name, value in mine.items() if value}
    ]


def test_a_key_prefix_of_the_template_stands() -> None:
    template = templates.DEPLOYMENT.replace(
        "image: ${image}", "image: ${image}\n          env: [{name: REDIS_KEY_PREFIX, value: ours}]"
    )
    config = PREFIXED.model_copy(update={"templates": Templates(deployment=template)})
    assert env(made(own_redis(), config)["Deployment/"])["REDIS_KEY_PREFIX"] == "ours"


def test_a_redis_that_is_not_shared_needs_no_key_prefix() -> None:
    alone = lgp(redis={"enabled": True})
    assert "REDIS_KEY_PREFIX" not in env(made(alone, PREFIXED)["Deployment/"])
    assert "REDIS_KEY_PREFIX" not in env(made(own_redis(), CONFIG)["Deployment/"]), "and it can be switched off"


def test_an_empty_custom_uri_counts_as_unset() -> None:
    one = lgp({"env": [{"name": "REDIS_URI_CUSTOM", "value": ""}]}, redis={"enabled": True})
    assert "Deployment/-redis" in made(one)


def test_without_a_database_of_ours_its_own_uri_stays() -> None:
    one = lgp({"env": [{"name": "POSTGRES_URI", "value": "postgresql://mine"}]})
    assert env(made(one)["Deployment/"])["POSTGRES_URI"] == "postgresql://mine"
    assert "DATABASE_URI" not in env(made(one)["Deployment/"])


def test_the_platform_wins_and_a_variable_appears_once() -> None:
    twice = [{"name": "MODEL", "value": "small"}, {"name": "PORT", "value": "1"}, {"name": "MODEL", "value": "big"}]
    deployment = made(lgp({"env": twice}))["Deployment/"]
    assert env(deployment)["PORT"] == "8000"
    assert env(deployment)["MODEL"] == "big"
    assert len(env(deployment)) == len(container(deployment)["env"])


def test_an_empty_value_is_left_out_as_the_api_server_does() -> None:
    deployment = made(lgp({"env": [{"name": "EMPTY", "value": ""}]}))["Deployment/"]
    assert {"name": "EMPTY"} in container(deployment)["env"]


@pytest.mark.parametrize(
    ("server", "api", "queue"),
    [
        ({}, "0", "10"),
        ({"numJobsPerWorker": 3}, "0", "3"),
        ({"env": [{"name": "N_JOBS_PER_WORKER", "value": "4"}]}, "0", "4"),
        ({"env": [{"name": "N_JOBS_PER_WORKER", "value": "4"}], "numJobsPerWorker": 3}, "0", "3"),
        ({"queueEnabled": False}, "10", None),
        ({"queueEnabled": False, "numJobsPerWorker": 3}, "3", None),
    ],
)
def test_jobs_per_worker(server: dict[str, Any], api: str, queue: str | None) -> None:
    objects = made(lgp(server))
    assert env(objects["Deployment/"])["N_JOBS_PER_WORKER"] == api
    if queue is None:
        assert "Deployment/-queue" not in objects
    else:
        assert env(objects["Deployment/-queue"])["N_JOBS_PER_WORKER"] == queue


def test_mount_prefix_is_the_route() -> None:
    assert "MOUNT_PREFIX" not in env(made(lgp())["Deployment/"])
    assert env(made(lgp(ingress={"enabled": True}))["Deployment/"])["MOUNT_PREFIX"] == f"/lgp/{NAME}"
    below = OperatorConfig(ingress=SharedIngress(base_path="/prod/"))
    assert env(made(lgp(ingress={"enabled": True}), below)["Deployment/"])["MOUNT_PREFIX"] == f"/prod/lgp/{NAME}"


# --- Postgres and Redis ------------------------------------------------------------------------------------


def test_the_password_is_made_once_and_in_no_manifest() -> None:
    one = lgp(database={"enabled": True, "secretName": f"{NAME}-db"})
    (credential,) = manifests.credentials(one, CONFIG)
    assert str(credential.key) == f"Secret team/{NAME}-db"
    assert credential.manifest["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert [one.field for one in credential.generated] == ["POSTGRES_PASSWORD"]
    assert "stringData" not in credential.manifest
    assert credential.with_values({"POSTGRES_PASSWORD": "p"})["stringData"] == {"POSTGRES_PASSWORD": "p"}
    with pytest.raises(ValueError, match="POSTGRES_PASSWORD"):
        credential.with_values({})


def test_a_secret_that_others_may_share_belongs_to_no_lgp() -> None:
    (credential,) = manifests.credentials(lgp(database={"enabled": True}), CONFIG)
    assert credential.key.name == "postgres-credentials"
    assert "ownerReferences" not in credential.manifest["metadata"]
    assert credential.manifest["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "agentplane"}


def test_database_fields() -> None:
    one = lgp(
        database={
            "enabled": True,
            "maxConnections": 250,
            "storageSizeGi": 64,
            "secretName": "pg",
            "resources": {"requests": {"cpu": "500m", "memory": "1.5Gi"}, "limits": {"ephemeral-storage": "1Gi"}},
        }
    )
    stateful_set = made(one)["StatefulSet/-db"]
    postgres = container(stateful_set)
    assert postgres["args"][-1] == "max_connections=250"
    assert postgres["resources"] == {
        "requests": {"cpu": "500m", "memory": "1536Mi"},
        "limits": {"cpu": "1", "memory": "3Gi", "ephemeral-storage": "1Gi"},
    }
    assert env(stateful_set)["POSTGRES_PASSWORD"] == {"secretKeyRef": {"name": "pg", "key": "POSTGRES_PASSWORD"}}
    claim = stateful_set["spec"]["volumeClaimTemplates"][0]
    assert claim["spec"]["resources"] == {"requests": {"storage": "64Gi"}}
    assert stateful_set["spec"]["serviceName"] == made(one)["Service/-db"]["metadata"]["name"]


def test_labels_of_an_lgp_stay_off_volume_claim_templates() -> None:
    """Volume claim templates cannot be changed later."""
    one = lgp(database={"enabled": True}, labels={"team": "search"})
    claim = made(one)["StatefulSet/-db"]["spec"]["volumeClaimTemplates"][0]
    assert "team" not in claim["metadata"]["labels"]


def test_a_database_with_the_legacy_name() -> None:
    one = lgp(database={"enabled": True, "legacyName": True})
    config = CONFIG.model_copy(update={"legacy_database_suffix": "pg"})
    assert manifests.object_names(one, config).database == f"{NAME}-pg"
    assert f"@{NAME}-pg." in env(made(one, config)["Deployment/"])["POSTGRES_URI"]


def test_redis_resources_replace_request_and_limit_together() -> None:
    one = lgp(redis={"enabled": True, "resources": {"requests": {"memory": "4Gi"}}})
    assert container(made(one)["Deployment/-redis"])["resources"] == {
        "requests": {"cpu": "1", "memory": "4Gi"},
        "limits": {"cpu": "1"},
    }


# --- templates of users ------------------------------------------------------------------------------------

TEMPLATE = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${name}
  namespace: ${namespace}
  annotations: {from: template}
spec:
  replicas: 2
  strategy: {type: Recreate}
  selector: {matchLabels: {app: "${name}", tier: agents}}
  template:
    metadata: {labels: {app: "${name}", tier: agents, extra: "1"}}
    spec:
      automountServiceAccountToken: false
      tolerations: [{key: spot, operator: Exists}]
      containers:
      - {name: logs, image: "logs:1"}
      - name: api-server
        image: ${image}
        args: [serve]
        ports: [{containerPort: 9000}]
        env: [{name: FROM, value: template}, {name: MODEL, value: template}]
        resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: "${name}", namespace: "${namespace}"}
spec:
  type: NodePort
  selector: {app: "${name}"}
  ports: [{name: http, port: 80, targetPort: 9000}]
"""


def test_a_users_template_wins_in_what_the_lgp_does_not_say() -> None:
    config = OperatorConfig(templates=Templates(deployment=TEMPLATE, service=SERVICE))
    one = lgp(
        {"env": [{"name": "MODEL", "value": "lgp"}], "resources": {"limits": {"cpu": "2"}}},
        labels={"tier": "other", "extra": "2"},
        tolerations=[{"key": "agents", "operator": "Exists"}],
        ingress={"enabled": True},
    )
    deployment = made(one, config)["Deployment/"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["metadata"]["annotations"] == {"from": "template"}
    assert pod(deployment)["automountServiceAccountToken"] is False
    assert [it["key"] for it in pod(deployment)["tolerations"]] == ["spot", "agents"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (labels["tier"], labels["extra"]) == ("agents", "2")
    server = pod(deployment)["containers"][1]
    assert server["resources"] == {"requests": {"memory": "1Gi"}, "limits": {"cpu": "2"}}
    variables = {entry["name"]: entry.get("value") for entry in server["env"]}
    assert (variables["FROM"], variables["MODEL"], variables["PORT"]) == ("template", "lgp", "9000")
    queue = pod(made(one, config)["Deployment/-queue"])["containers"][1]
    assert "args" not in queue
    path = manifests.ingress_path(one, config)
    assert path is not None
    assert path.port == 80


def test_few_empty_replica_sets_are_kept_unless_a_template_says_how_many() -> None:
    config = OperatorConfig(
        revision_history_limit=3,
        templates=Templates(redis=templates.REDIS.replace("replicas: 1", "replicas: 1\n  revisionHistoryLimit: 7")),
    )
    deployments = {key: it for key, it in made(lgp(redis={"enabled": True}), config).items() if "Deployment" in key}
    assert {key: it["spec"]["revisionHistoryLimit"] for key, it in deployments.items()} == {
        "Deployment/": 3,
        "Deployment/-queue": 3,
        "Deployment/-redis": 7,
    }
    assert "revisionHistoryLimit" not in made(lgp())["Deployment/"]["spec"], "as before, where no limit was recorded"


def test_a_template_with_a_null_limit_has_none_of_its_own() -> None:
    limitless = "replicas: ${replicas}\n  revisionHistoryLimit: null"
    nothing = templates.DEPLOYMENT.replace("replicas: ${replicas}", limitless)
    config = OperatorConfig(revision_history_limit=3, templates=Templates(deployment=nothing))

    assert made(lgp(), config)["Deployment/"]["spec"]["revisionHistoryLimit"] == 3


def test_manifests_do_not_share_parts_with_the_lgp() -> None:
    one = lgp({"sidecars": [{"name": "p", "image": "p", "ports": [{"containerPort": 1}]}]})
    before = deepcopy(one)
    made(one)
    assert one == before


# --- routes ------------------------------------------------------------------------------------------------


def test_the_exposure_is_the_shared_ingress() -> None:
    config = OperatorConfig(ingress=SharedIngress(hostname="agents.localhost:8443", base_path="x", tls_enabled=False))
    one = lgp(ingress={"enabled": True})
    path = manifests.ingress_path(one, config)
    assert path == manifests.IngressPath(
        namespace="team", host="agents.localhost", path=f"/x/lgp/{NAME}", service=NAME, port=8000
    )
    assert manifests.endpoint(one, config) == f"http://agents.localhost:8443/x/lgp/{NAME}"
    assert manifests.route_problem(one, config) is None


def test_without_ingress_the_endpoint_is_in_the_cluster() -> None:
    assert manifests.ingress_path(lgp(), CONFIG) is None
    assert manifests.endpoint(lgp(), CONFIG) == f"http://{NAME}.team.svc.cluster.local:8000"


EDGE = OperatorConfig(ingress=SharedIngress(hostname="h", namespace="edge"), cluster_domain="example.local")


def test_an_ingress_in_another_namespace_leads_to_an_external_name_beside_it() -> None:
    one = lgp(ingress={"enabled": True})
    (service,) = [it for it in manifests.objects(one, EDGE) if it["metadata"]["namespace"] == "edge"]
    path = manifests.ingress_path(one, EDGE)
    assert path == manifests.IngressPath(
        namespace="edge", host="h", path=f"/lgp/{NAME}", service=service["metadata"]["name"], port=8000
    )
    assert service["kind"] == "Service"
    assert service["spec"] == {
        "type": "ExternalName",
        "externalName": f"{NAME}.team.svc.example.local",
        "ports": [{"name": "api-server", "port": 8000, "targetPort": 8000, "protocol": "TCP"}],
    }
    assert "ownerReferences" not in service["metadata"], "they cannot cross namespaces"
    assert service["metadata"]["labels"]["agentplane.dev/lgp"] == NAME
    assert service["metadata"]["labels"]["agentplane.dev/lgp-namespace"] == "team"
    assert env(made(one, EDGE)["Deployment/"])["MOUNT_PREFIX"] == f"/lgp/{NAME}"
    assert manifests.endpoint(one, EDGE) == f"https://h/lgp/{NAME}"
    assert manifests.route_problem(one, EDGE) is None


def test_an_ingress_in_the_lgps_own_namespace_needs_no_external_name() -> None:
    config = OperatorConfig(ingress=SharedIngress(hostname="h", namespace="team"))
    one = lgp(ingress={"enabled": True})
    path = manifests.ingress_path(one, config)
    assert path is not None
    assert path.service == NAME
    assert {it["metadata"]["namespace"] for it in manifests.objects(one, config)} == {"team"}


@pytest.mark.parametrize(
    "other", [("blue", "hello"), ("team", "hello-2"), ("team", "a" * 253), ("hello", "team"), ("te", "am-hello")]
)
def test_external_names_of_different_lgps_differ(other: tuple[str, str]) -> None:
    def external(namespace: str, name: str) -> str:
        spec = {"serverSpec": {"image": IMAGE}, "ingress": {"enabled": True}}
        path = manifests.ingress_path(parse_lgp(namespace, name, "uid", spec), EDGE)
        assert path is not None
        return path.service

    assert external("team", "hello") != external(*other)
    assert len(external(*other)) <= 63


@pytest.mark.parametrize(
    ("kind", "namespace", "former"),
    [
        ("Service", "edge", False),
        ("IngressPath", "edge", False),
        ("Service", "old-edge", True),
        ("IngressPath", "old-edge", True),
        ("IngressPath", "team", True),
        ("HTTPRoute", "team", True),
        ("VirtualService", "team", True),
        ("Service", "team", False),
        ("Deployment", "team", False),
    ],
)
def test_what_belongs_to_a_disabled_exposure(kind: str, namespace: str, former: bool) -> None:
    key = ObjectKey(api_version="v1", kind=kind, namespace=namespace, name="x")
    assert manifests.is_of_disabled_exposure(key, "team", EDGE) is former


def test_no_exposure_is_a_problem_with_a_fix() -> None:
    config = OperatorConfig(ingress=SharedIngress(enabled=False))
    problem = manifests.route_problem(lgp(ingress={"enabled": True}), config)
    assert problem is not None
    assert "enable one" in problem


def test_http_route() -> None:
    gateway = Gateway(enabled=True, name="public", namespace="edge", hostname="agents.example.com")
    config = OperatorConfig(ingress=SharedIngress(enabled=False), gateway=gateway)
    one = lgp(ingress={"enabled": True})
    route = made(one, config)["HTTPRoute/"]["spec"]
    assert route["parentRefs"][0]["name"] == "public"
    assert route["parentRefs"][0]["namespace"] == "edge"
    assert route["hostnames"] == ["agents.example.com"]
    assert route["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": f"/lgp/{NAME}"}}]
    assert route["rules"][0]["backendRefs"][0]["name"] == NAME
    assert manifests.ingress_path(one, config) is None
    assert manifests.endpoint(one, config) == f"https://agents.example.com/lgp/{NAME}"


def test_virtual_service() -> None:
    gateway = Gateway(enabled=True, name="public", namespace="edge", hostname="agents.example.com")
    config = OperatorConfig(ingress=SharedIngress(enabled=False), istio_gateway=gateway)
    route = made(lgp(ingress={"enabled": True}), config)["VirtualService/"]["spec"]
    assert route["gateways"] == ["edge/public"]
    assert route["hosts"] == ["agents.example.com"]
    assert route["http"][0]["match"] == [{"uri": {"exact": f"/lgp/{NAME}"}}, {"uri": {"prefix": f"/lgp/{NAME}/"}}]
    assert route["http"][0]["route"][0]["destination"]["host"] == f"{NAME}.team.svc.cluster.local"


# --- autoscaling -------------------------------------------------------------------------------------------

BOUNDS = {"enabled": True, "minReplicas": 2, "maxReplicas": 8, "queueMinReplicas": 0, "queueMaxReplicas": 20}


def test_an_autoscaler_owns_the_number_of_replicas() -> None:
    objects = made(lgp({"replicas": 3}, autoscaling=BOUNDS))
    assert "replicas" not in objects["Deployment/"]["spec"]
    assert "replicas" not in objects["Deployment/-queue"]["spec"]


def test_without_keda_pods_are_scaled_by_cpu_and_memory() -> None:
    objects = made(lgp(autoscaling={**BOUNDS, "autoscalerType": "KEDA"}))
    server = objects["HorizontalPodAutoscaler/"]["spec"]
    assert server["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    assert (server["minReplicas"], server["maxReplicas"]) == (2, 8)
    target = {"type": "Utilization", "averageUtilization": 75}
    assert [metric["resource"] for metric in server["metrics"]] == [
        {"name": "cpu", "target": target},
        {"name": "memory", "target": target},
    ]
    assert server["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 1800}}
    queue = objects["HorizontalPodAutoscaler/-queue"]["spec"]
    assert (queue["minReplicas"], queue["maxReplicas"]) == (1, 20), "an HPA cannot start from zero"


def test_keda_scales_queue_workers_by_runs() -> None:
    config = OperatorConfig(keda_enabled=True)
    one = lgp({"numJobsPerWorker": 5}, autoscaling=BOUNDS, database={"enabled": True})
    queue = made(one, config)["ScaledObject/-queue"]["spec"]
    assert (queue["minReplicaCount"], queue["maxReplicaCount"]) == (0, 20)
    assert queue["scaleTargetRef"]["envSourceContainerName"] == "api-server"
    runs, *usage = queue["triggers"]
    assert runs["type"] == "postgresql"
    assert runs["metadata"]["targetQueryValue"] == "5"
    assert runs["metadata"]["passwordFromEnv"] == "POSTGRES_PASSWORD"
    assert [trigger["type"] for trigger in usage] == ["cpu", "memory"]
    assert made(one, config)["ScaledObject/"]["spec"]["minReplicaCount"] == 2


def test_keda_reads_the_connection_that_the_workers_have() -> None:
    config = OperatorConfig(keda_enabled=True)
    custom = lgp({"env": [{"name": "POSTGRES_URI_CUSTOM", "value": "postgresql://x"}]}, autoscaling=BOUNDS)
    (trigger, *_) = made(custom, config)["ScaledObject/-queue"]["spec"]["triggers"]
    assert trigger["metadata"]["connectionFromEnv"] == "POSTGRES_URI_CUSTOM"
    unknown = made(lgp(autoscaling=BOUNDS), config)["ScaledObject/-queue"]["spec"]
    assert [trigger["type"] for trigger in unknown["triggers"]] == ["cpu", "memory"]
    assert unknown["minReplicaCount"] == 1


def test_hpa_may_be_asked_for_where_keda_is() -> None:
    objects = made(lgp(autoscaling={**BOUNDS, "autoscalerType": "HPA"}), OperatorConfig(keda_enabled=True))
    assert "HorizontalPodAutoscaler/" in objects
    assert "ScaledObject/" not in objects


def test_queue_workers_keep_their_own_number_without_an_autoscaler() -> None:
    objects = made(lgp({"replicas": 2}, autoscaling={"enabled": False, "queueMinReplicas": 4}))
    assert objects["Deployment/"]["spec"]["replicas"] == 2
    assert objects["Deployment/-queue"]["spec"]["replicas"] == 4


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a" * 50, "a" * 253, "1agent", "team.agent", "a" * 40 + "." + "b" * 40])
def test_names_that_do_not_fit_are_shortened_with_a_hash(name: str) -> None:
    names = manifests.object_names(lgp(name=name), CONFIG)
    assert len(names.database) <= 52
    assert names.server[0].isalpha()
    assert "." not in names.server
    assert names == manifests.object_names(lgp(name=name), CONFIG)
    assert names != manifests.object_names(lgp(name=name + "x"), CONFIG)


def test_a_name_that_yaml_takes_for_a_boolean_stays_a_name() -> None:
    assert made(lgp(name="on"))["Service/"]["spec"]["selector"] == {"app": "on"}
