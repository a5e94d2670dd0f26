"""Redis of one Agent Server: a Service and a Deployment."""

from __future__ import annotations

from engine.operator import templates
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp
from engine.operator.manifests import adopted, overlay
from engine.operator.manifests.database import internal_service
from engine.operator.manifests.environment import REDIS_PORT, makes_redis
from engine.operator.manifests.naming import object_names
from engine.ports import Manifest


def objects(lgp: Lgp, config: OperatorConfig) -> list[Manifest]:
    """Return the Service and the Deployment, or nothing when the LGP needs none. Raises SettingsError."""
    if not makes_redis(lgp):
        return []
    name = object_names(lgp, config).redis
    deployment = templates.fill("redis", config.templates.redis, {"service_name": name})
    overlay.merge_resources_into(deployment["spec"]["template"]["spec"]["containers"][0], lgp.spec.redis.resources)
    overlay.limit_history(config, deployment)
    adopted.keep_selector(lgp, deployment, name)
    overlay.merge_workload(lgp, deployment, name)
    return [internal_service(lgp, deployment, REDIS_PORT, name), deployment]
