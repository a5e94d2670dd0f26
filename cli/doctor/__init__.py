"""`agentplane doctor`: checks everything that the data plane needs.

run.py            runs the checks in order and prints what they find; CHECKS is the table of all checks
finding.py        one line of the result: ok, warn, fail or skip, with a fix
redis.py          Redis: connection, version, persistence, memory
sentinels.py      the Sentinels in front of Redis, and what a failover would lose
workers.py        Celery workers that answer, timers that no sweep has handled
control_plane.py  the control plane (key, workspace, listener) and the LangSmith API
cluster.py        Kubernetes: version, kinds, namespaces, permissions, leases, the shared Ingress or Gateway
hostname.py       the hostname of the Agent Servers

To add a check: write a function from Settings to findings in one of these modules, and add it to CHECKS in run.py.
"""
