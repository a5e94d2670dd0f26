"""The LGP as far as the operator reads it: its model, its redacted form for the log, and the fields it does not know.

    model               the fields that the operator reads, typed; `read_lgp` and `parse_lgp`
    redaction           `redact_spec`: the spec without secret values, the only form that the log may hold
    unknown_fields      `unknown_fields`: the fields of a spec that are not in the model

How to add a field that changes the manifests:

1. Add the field to its part in `model`, with the default of the custom resource definition.
2. Add the field to the custom resource definition, `k8s/crds/lgps.apps.langchain.ai.yaml`.
3. If users may write a secret into the field, hide its value in `redaction`.
4. Read the field in the module of `engine/operator/manifests` that makes the object (the table in that package's header
   says which module makes what).
5. If the listener shall fill the field from a revision, read it in `engine/listener/resource_spec.py` and write it in
   `engine/listener/desired.py`.
6. Test it in `tests/unit/operator/test_manifests.py` and, when step 3 applies, in `test_manifests_redaction.py`.
"""

from engine.operator.lgp.model import EnvVar, Lgp, LgpSpec, Resources, parse_lgp, read_lgp
from engine.operator.lgp.redaction import PUBLIC_VARIABLES, redact_spec
from engine.operator.lgp.unknown_fields import unknown_fields

__all__ = [
    "PUBLIC_VARIABLES",
    "EnvVar",
    "Lgp",
    "LgpSpec",
    "Resources",
    "parse_lgp",
    "read_lgp",
    "redact_spec",
    "unknown_fields",
]
