"""The objects of an LGP's `spec.managedResources`: a ServiceAccount for all its pods, and one SecretProviderClass.

The Secrets Store CSI driver reads a SecretProviderClass when a pod mounts a volume of it. Both objects are applied
before the workloads, whose pods cannot start without them.

The operator makes either kind only where the configuration allows it: not every cluster grants an operator the right to
write ServiceAccounts. An LGP that asks for a kind that is switched off is refused as a whole: its pods would run
without the identity or the volumes that they need. The objects in the cluster then stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.names import BUDGET, SECRET_PROVIDER_CLASS, SERVICE_ACCOUNT
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp
from engine.operator.manifests import overlay
from engine.operator.manifests.naming import service_account_name
from engine.ports import Manifest, ObjectKey

NOT_SERVED = (
    "install the Secrets Store CSI driver with its Azure provider, or remove managedResources.secretProviderClass from "
    "the LGP; until then pods that mount a volume of it cannot start"
)
"""Fix when the API server does not serve SecretProviderClasses."""


def objects(lgp: Lgp) -> list[Manifest]:
    """Return the ServiceAccount and the SecretProviderClass that `lgp` asks for, in this order."""
    return [*_service_account(lgp), *_secret_provider_class(lgp)]


def why_refused(lgp: Lgp, config: OperatorConfig) -> str | None:
    """Return why `config` does not allow what `lgp` asks for, with the value to set; None when it is allowed."""
    asked = lgp.spec.managed_resources
    kinds = (
        (asked.service_account, config.managed_service_accounts, "serviceAccount", "service_accounts"),
        (
            asked.secret_provider_class,
            config.managed_secret_provider_classes,
            "secretProviderClass",
            "secret_provider_classes",
        ),
    )
    off = [(field, setting) for part, enabled, field, setting in kinds if part is not None and not enabled]
    if not off:
        return None
    fields = " and ".join(f"spec.managedResources.{field}" for field, _ in off)
    values = " and ".join(f"{_value(setting)}=true (AGENTPLANE_MANAGED_{setting.upper()})" for _, setting in off)
    return (
        f"LGP {lgp.namespace}/{lgp.name} has {fields}, which this operator may not make: set {values} in the values of "
        "the chart, or remove the field from the LGP; the operator changes nothing until then"
    )


def _value(setting: str) -> str:
    """Return the chart's value for a setting: service_accounts → operator.managedResources.serviceAccounts."""
    first, *rest = setting.split("_")
    return "operator.managedResources." + first + "".join(word.capitalize() for word in rest)


def is_switched_off(key: ObjectKey, config: OperatorConfig) -> bool:
    """Whether `config` does not allow objects of this kind. The operator's Role may then not allow them either."""
    kinds = {
        SERVICE_ACCOUNT: config.managed_service_accounts,
        SECRET_PROVIDER_CLASS: config.managed_secret_provider_classes,
        BUDGET: config.pod_disruption_budgets,
    }
    return not kinds.get((key.api_version, key.kind), True)


def may_be_namesake(key: ObjectKey) -> bool:
    """Whether an object of this kind and name may be a namesake: made by another client, for its own purpose.

    Then the object is ours only if the LGP's uid is among its owners.
    """
    return (key.api_version, key.kind) in (SERVICE_ACCOUNT, SECRET_PROVIDER_CLASS, BUDGET)


def not_served(key: ObjectKey) -> str:
    """Return the message about a SecretProviderClass when the API server does not serve its kind, with the fix."""
    return f"{key} cannot be made, because this cluster does not serve {key.kind} {key.api_version}: {NOT_SERVED}"


def _service_account(lgp: Lgp) -> Iterator[Manifest]:
    asked = lgp.spec.managed_resources.service_account
    if asked is None:
        return
    mounted = asked.automount_service_account_token
    yield {
        "apiVersion": SERVICE_ACCOUNT[0],
        "kind": SERVICE_ACCOUNT[1],
        "metadata": overlay.metadata(lgp, service_account_name(lgp), annotations=asked.annotations),
        **({} if mounted is None else {"automountServiceAccountToken": mounted}),
    }


def _secret_provider_class(lgp: Lgp) -> Iterator[Manifest]:
    asked = lgp.spec.managed_resources.secret_provider_class
    if asked is None:
        return
    yield {
        "apiVersion": SECRET_PROVIDER_CLASS[0],
        "kind": SECRET_PROVIDER_CLASS[1],
        "metadata": overlay.metadata(lgp, asked.name),
        "spec": {"provider": asked.provider, "parameters": dict(asked.parameters)},
    }
