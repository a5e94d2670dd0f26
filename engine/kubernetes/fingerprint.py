"""The fingerprint of an object as we applied it: it tells our own writes from other people's.

The API server keeps, for every field manager, the set of fields that it owns (`metadata.managedFields`). A client that
changes a field of ours takes the field out of our set. A change to the spec of a kind that counts generations raises
the generation. An object that is deleted and made again has another uid. So `uid`, `generation` and a digest of our own
set tell drift without a comparison of every field against the API server's defaults, and status updates never look
like drift.

What each component counts as drift is in `engine/operator/observation/drift.py` and
`engine/listener/observation/compare.py`. How soon a drift is repaired is in `engine/kubernetes/repairs.py`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from engine.digests import digest
from engine.ports import Manifest


class Fingerprint(BaseModel):
    """An object as it was right after our apply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: str
    generation: int
    """0 for kinds that count none."""
    fields: str
    """Digest of the fields that our manager owns; empty when our manager owns none."""


def fingerprint(manifest: Manifest, manager: str) -> Fingerprint:
    """Return the fingerprint of a live object under our field `manager`."""
    metadata = manifest.get("metadata", {})
    owned = [
        entry.get("fieldsV1", {})
        for entry in metadata.get("managedFields", [])
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")
    ]
    return Fingerprint(
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        fields=digest(owned) if owned else "",
    )


def difference(applied: Fingerprint, live: Fingerprint) -> str | None:
    """Return what changed since we applied the object, for a person; None when nothing did.

    An older generation than the applied one is a stale read, not drift.
    """
    if live.uid != applied.uid:
        return "it was deleted, and another client created it again"
    if live.generation < applied.generation:
        return None
    if live.fields != applied.fields:
        return "fields that we own were changed or taken over"
    if live.generation > applied.generation:
        return f"its spec was changed (generation {applied.generation} → {live.generation})"
    return None
