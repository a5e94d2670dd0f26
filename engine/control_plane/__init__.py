"""The way to the control plane and to Agent Servers' health."""
