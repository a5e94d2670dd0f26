"""An LGP as the API server shows it, as the event LgpObserved; and whether it is news to the log."""

from __future__ import annotations

from collections.abc import Callable

from engine import names
from engine.digests import canonical
from engine.operator import conditions
from engine.operator.events import LgpObserved, Stopped
from engine.operator.lgp import redact_spec, unknown_fields
from engine.operator.state import Life, OperatorState
from engine.ports import JsonObject, Manifest

REVISION_VARIABLE = "LANGSMITH_HOST_REVISION_ID"
"""Environment variable with the revision's id, for an LGP without REVISION_LABEL."""


def observe_lgp(manifest: Manifest, digest: Callable[[bytes], str]) -> LgpObserved:
    """Return the event of a live LGP, with secret values redacted; `digest` is keyed."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    spec = manifest.get("spec") or {}
    revision = labels.get(names.REVISION_LABEL) or _revision_variable(spec)
    deployment = labels.get(names.DEPLOYMENT_LABEL, "")
    stopped = _stopped(metadata.get("annotations") or {}, spec)
    digested = [spec, revision, deployment, *([stopped.model_dump()] if stopped is not None else [])]
    return LgpObserved(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        revision=revision,
        deployment_id=deployment,
        spec=redact_spec(spec, digest),
        unknown_fields=unknown_fields(spec),
        digest=digest(canonical(digested)),
        stopped=stopped,
    )


def _stopped(annotations: JsonObject, spec: JsonObject) -> Stopped | None:
    """Return why the listener scaled an LGP to zero; None when it did not, or when the LGP asks for pods again.

    Annotations alone do not tell: a listener that does not know them leaves them there when it writes the LGP again.
    """
    reason, message = (annotations.get(n, "") for n in (names.STOPPED_ANNOTATION, names.STOPPED_MESSAGE_ANNOTATION))
    if not reason or _asks_for_pods(spec):
        return None
    return Stopped(reason=conditions.reason(reason, "RevisionFailed"), message=message[: conditions.LONGEST_MESSAGE])


def _asks_for_pods(spec: JsonObject) -> bool:
    server, autoscaling = spec.get("serverSpec"), spec.get("autoscaling")
    if isinstance(autoscaling, dict) and autoscaling.get("enabled"):
        return True
    return not isinstance(server, dict) or server.get("replicas") != 0


def _revision_variable(spec: JsonObject) -> str:
    server = spec.get("serverSpec")
    env = server.get("env") if isinstance(server, dict) else None
    for entry in env if isinstance(env, list) else []:
        if isinstance(entry, dict) and entry.get("name") == REVISION_VARIABLE and isinstance(entry.get("value"), str):
            return str(entry["value"])
    return ""


def is_news(state: OperatorState, observed: LgpObserved) -> bool:
    """Whether `observed` differs from what the log knows of the LGP, and is not a stale read."""
    lgp = state.lgp
    if lgp is None or state.life not in (Life.PRESENT, Life.DELETING):
        return True
    if observed.deleting != (state.life is Life.DELETING):
        return True
    if lgp.uid == observed.uid and observed.generation < lgp.generation:
        return False  # a stale read
    return (lgp.uid, lgp.generation, lgp.digest) != (observed.uid, observed.generation, observed.digest)
