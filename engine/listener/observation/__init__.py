"""What the listener observes of the cluster."""
