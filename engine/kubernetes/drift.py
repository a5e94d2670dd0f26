"""Telling our own writes from other people's: the fingerprint of an object as we applied it.

The API server keeps, for every field manager, the set of fields it owns (`metadata.managedFields`). Whoever changes
a field of ours takes it out of our set; whoever changes the spec of a kind that counts generations raises the
generation; an object deleted and made again has another uid. So `uid`, `generation` and a digest of our own set tell
drift without comparing the object field by field against defaulting, and status updates never look like it.

Drift is repaired at once, unless somebody keeps undoing it: an object that is fought over is repaired ever more rarely.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine.digests import digest

CALM = timedelta(seconds=60)
"""An object that drifts again within this time after our apply is fought over."""
FREE_REPAIRS = 3
"""Repairs in a row that are made at once; after that the delay doubles."""
REPAIR_CAP = 300.0
"""Seconds between two repairs of an object that somebody keeps changing, at most."""


def repair_delay(repairs: int) -> timedelta:
    """Return how long to leave a drift alone that is number `repairs` (from 1) in a row."""
    if repairs <= FREE_REPAIRS:
        return timedelta()
    return timedelta(seconds=min(REPAIR_CAP, 2.0 ** min(repairs - FREE_REPAIRS, 20)))


class Fingerprint(BaseModel):
    """An object as it was right after our apply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: str
    generation: int
    """0 for kinds that count none."""
    fields: str
    """Digest of the fields that our manager owns; empty when it owns none."""


def fingerprint(manifest: dict[str, Any], manager: str) -> Fingerprint:
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
    """Return what changed since we applied, for a person; None when nothing did.

    An older generation than the applied one is a stale read, not drift.
    """
    if live.uid != applied.uid:
        return "it was deleted and made again by somebody else"
    if live.generation < applied.generation:
        return None
    if live.fields != applied.fields:
        return "fields that we own were changed or taken over"
    if live.generation > applied.generation:
        return f"its spec was changed (generation {applied.generation} → {live.generation})"
    return None
