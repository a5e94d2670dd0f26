"""Kubernetes: requests, watches, field ownership, fingerprints, namespace leases, permissions."""
