"""Reading an LGP as the API server shows it, into the event that says so."""

from __future__ import annotations

from collections.abc import Callable

from engine import names
from engine.digests import canonical
from engine.operator import conditions
from engine.operator.events import LgpObserved, Stopped
from engine.operator.lgp import redact_spec, unknown_fields
from engine.operator.state import OperatorState
from engine.ports import Manifest

REVISION_VARIABLE = "LANGSMITH_HOST_REVISION_ID"


def observe_lgp(manifest: Manifest, digest: Callable[[bytes], str]) -> LgpObserved:
    """Return what a live LGP says, with secret values replaced; `digest` is keyed."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    spec = manifest.get("spec") or {}
    revision = labels.get(names.REVISION_LABEL) or _revision_variable(spec)
    deployment = labels.get(names.DEPLOYMENT_LABEL, "")
    stopped = _stopped(metadata.get("annotations") or {}, spec)
    said = [spec, revision, deployment, *([stopped.model_dump()] if stopped is not None else [])]
    return LgpObserved(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        revision=revision,
        deployment_id=deployment,
        spec=redact_spec(spec, digest),
        unknown=unknown_fields(spec),
        digest=digest(canonical(said)),
        stopped=stopped,
    )


def _stopped(annotations: Manifest, spec: Manifest) -> Stopped | None:
    """Return why the listener scaled an LGP to nothing, None where it did not, or where pods are asked for since.

    A listener that does not know the annotations leaves them there when it writes its own LGP.
    """
    reason, message = (annotations.get(n, "") for n in (names.STOPPED_ANNOTATION, names.STOPPED_MESSAGE_ANNOTATION))
    if not reason or _asks_for_pods(spec):
        return None
    return Stopped(reason=conditions.reason(reason, "RevisionFailed"), message=message[: conditions.LONGEST_MESSAGE])


def _asks_for_pods(spec: Manifest) -> bool:
    server, autoscaling = spec.get("serverSpec"), spec.get("autoscaling")
    if isinstance(autoscaling, dict) and autoscaling.get("enabled"):
        return True
    return not isinstance(server, dict) or server.get("replicas") != 0


def _revision_variable(spec: Manifest) -> str:
    server = spec.get("serverSpec")
    env = server.get("env") if isinstance(server, dict) else None
    for entry in env if isinstance(env, list) else []:
        if isinstance(entry, dict) and entry.get("name") == REVISION_VARIABLE and isinstance(entry.get("value"), str):
            return str(entry["value"])
    return ""


def is_news(state: OperatorState, observed: LgpObserved) -> bool:
    """Whether the state knows less than what was observed."""
    lgp = state.lgp
    if lgp is None or state.life.value not in ("PRESENT", "DELETING"):
        return True
    if observed.deleting != (state.life.value == "DELETING"):
        return True
    if lgp.uid == observed.uid and observed.generation < lgp.generation:
        return False  # a stale read
    return (lgp.uid, lgp.generation, lgp.digest) != (observed.uid, observed.generation, observed.digest)
