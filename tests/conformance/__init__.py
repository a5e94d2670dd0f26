"""Conformance tests: they check the behaviour of the sandbox's Kubernetes API on it and on a real kube-apiserver.

Every case uses the fixture `api` and therefore runs twice. A case that fails on the real server is wrong. A case that
fails only on the embedded server shows a bug there. Where Kubernetes versions differ, a case checks only what they have
in common.
"""
