"""What the operator observes of the cluster."""
