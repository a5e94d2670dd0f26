"""The way to Kubernetes: requests, watches, field ownership, drift, namespace leases, permissions."""
