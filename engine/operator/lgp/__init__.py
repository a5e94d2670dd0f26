"""The LGP as far as the operator reads it: its model, its redacted form for the log, and the fields it does not know.

    model               the fields that the operator reads, typed; `read_lgp` and `parse_lgp`
    redaction           `redact_spec`: the spec without secret values, the only form that the log may hold
    unknown_fields      `unknown_fields`: the fields of a spec that are not in the model

The header of `model` lists the steps to add a field.
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
