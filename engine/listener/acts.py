"""The listener's acts, as values: each names one idempotent step against the outside world.

`decide` chooses an act; `perform` carries the act out.
"""

from __future__ import annotations

from typing import Literal

from engine.runtime.machine import Act


class ApplySecrets(Act):
    """Fetch the revision's secret values and put them into its Secret."""

    revision_id: str


class ApplyLgp(Act):
    """Apply the LGP of the current revision, or of one that was in the cluster before."""

    revision_id: str
    manifest_digest: str
    """Of the manifest to apply: what a replay compares."""
    restores: bool = False
    """The current revision failed; this is its predecessor's."""
    stops: bool = False
    """The current revision failed, and nothing served before it: the LGP asks for no pods any more."""


class CheckHealth(Act):
    """`GET /ok` through the configured hostname."""

    revision_id: str
    url: str
    attempt: int


class CompleteRevision(Act):
    """The revision is rolled out and healthy: note it."""

    revision_id: str


class FailRevision(Act):
    """Give the revision up."""

    revision_id: str
    reason: str
    message: str


class PruneSecrets(Act):
    """Delete the Secrets of earlier revisions."""

    keep: str


class DeleteLgp(Act):
    """Ask the LGP to go, after its objects."""


class ConfirmDeletion(Act):
    """Look whether the LGP is gone."""


class DeleteSecrets(Act):
    """Delete every Secret of the deployment."""


class ReportStatus(Act):
    """Tell the control plane."""

    subject: Literal["revision", "deployment"]
    id: str
    status: str
    reason: str | None
    message: str | None


class PublishEndpoint(Act):
    """Tell the control plane where the deployment is reached."""

    url: str
    replaces: str
    """What was published before: anything else was set by a person, and stays."""
