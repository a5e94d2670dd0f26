"""The path of an Agent Server, on every exposure: the shared Ingress, an HTTPRoute, a VirtualService.

The listener needs the path for the URL that it publishes and checks, the operator for the routes, and both must make
the same.
"""

from __future__ import annotations


def agent_path(base_path: str, name: str) -> str:
    """Return the path prefix under which an Agent Server is reached: `<base path>/lgp/<LGP name>`."""
    base = base_path.strip("/")
    return f"/{base}/lgp/{name}" if base else f"/lgp/{name}"


def lgp_of_path(path: str) -> str | None:
    """Return the LGP name that `agent_path` made `path` of; None for a path of another form."""
    _, marker, name = path.rpartition("/lgp/")
    return name if marker and name and "/" not in name else None
