"""What the sandbox's Kubernetes API claims, checked against it and against a real kube-apiserver.

Every case takes the fixture `api` and so runs twice. A case that fails on the real server is wrong; one that
fails on the embedded server only shows a bug there. Where Kubernetes versions differ, the case asserts what
all agree on.
"""
