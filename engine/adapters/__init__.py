"""The engine's ports made real: the Kubernetes API, the control plane's HTTP API, health checks over HTTP.

Each adapter raises errors of `engine.errors` only, puts a timeout on every call and never logs a body or a credential.
"""
