"""The sandbox's node: runs Pods as local processes and serves the ingress in front of them.

Theory of operation. One asyncio process holds everything a cluster has below its API server:

- *Scheduler.* Every unbound Pod is bound to the one Node object this process registers (`node.py`).
- *Kubelet.* One task per Pod (`pod.py`), one per container (`container.py`). An image `sandbox.local/<app>` is a
  folder (`images.py`); it runs as a real Agent Server process, or as whatever program its `image.json` names, with
  exactly the environment that the Pod spec resolves to (`environment.py`, `execution.py`, `runtime.py`). Programs get
  their volumes and the token of their ServiceAccount (`volumes.py`). Status, conditions, restarts with back-off,
  probes and Events are written the way a kubelet writes them (`status.py`, `probes.py`, `events.py`), because
  controllers and people read them.
- *Ingress controller.* Ingress, HTTPRoute and VirtualService objects become one table of routes (`routes.py`),
  and a streaming reverse proxy sends requests to ready, non-terminating Pods (`ingress.py`).
- *Logs.* Files under the state folder, served on loopback and to `kubectl logs` (`logs.py`).

It talks to the API server as any client does (`api.py`, `informer.py`), so it is the same program in front of the
embedded API server and of a real kube-apiserver.

What is not real: infrastructure images (Postgres, Redis) are reported as running without a process, Agent Servers get
no volumes and those of programs are folders elsewhere, security contexts and limits hold nobody back, and there is
one flat network: 127.0.0.1, with a local port per container.
"""
