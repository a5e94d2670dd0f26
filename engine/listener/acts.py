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
    """Digest of the manifest to apply; a replay compares it."""
    restores: bool = False
    """The LGP is put back to the predecessor, because the current revision failed."""
    stops: bool = False
    """The LGP is changed to ask for no pods, because the current revision failed and no revision served before it."""


class CheckHealth(Act):
    """`GET /ok` through the configured hostname."""

    revision_id: str
    url: str
    attempt: int


class CompleteRevision(Act):
    """Record that the revision is rolled out and healthy."""

    revision_id: str


class FailRevision(Act):
    """Record that the revision failed."""

    revision_id: str
    reason: str
    message: str


class PruneSecrets(Act):
    """Delete the Secrets of earlier revisions."""

    keep: str


class DeleteLgp(Act):
    """Delete the LGP after its objects (foreground deletion)."""


class ConfirmDeletion(Act):
    """Check whether the LGP still exists."""


class DeleteSecrets(Act):
    """Delete every Secret of the deployment."""


class ReportStatus(Act):
    """Report a status to the control plane."""

    subject: Literal["revision", "deployment"]
    id: str
    status: str
    reason: str | None
    message: str | None


class PublishEndpoint(Act):
    """Publish the URL of the deployment on the control plane."""

    url: str
    replaces: str
    """URL that the listener published before; any other URL was set by a person, and stays."""
