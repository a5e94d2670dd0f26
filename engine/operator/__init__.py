"""The operator: LGP → Kubernetes objects."""
