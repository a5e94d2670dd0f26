"""The sandbox's node: runs Pods as local processes and serves the ingress in front of them.

Theory of operation. One asyncio process does what scheduler, kubelet and ingress controller do in a cluster:

- *Scheduler.* It binds every unbound Pod to the one Node object that it registers (`node.py`).
- *Kubelet.* Each Pod has a task (`pod.py`), and so has each container (`container.py`). An image `sandbox.local/<app>`
  is a folder (`images.py`). It runs as a real Agent Server process, or as the program that its `image.json` names, with
  exactly the environment that the Pod spec resolves to (`environment.py`, `execution.py`, `runtime.py`). Programs get
  their volumes and the token of their ServiceAccount (`volumes.py`). Status, conditions, restarts with back-off,
  probes and Events follow those of a kubelet (`status.py`, `probes.py`, `events.py`), because controllers and people
  read them.
- *Ingress controller.* Ingress, HTTPRoute and VirtualService objects become one table of routes (`routes.py`),
  and a streaming reverse proxy sends requests to ready Pods that are not terminating (`ingress.py`).
- *Logs.* Each run of a container has a log file under the state folder; an endpoint on loopback serves these files, and
  another serves them to `kubectl logs` (`logs.py`).

The process talks to the API server as any client does (`api.py`, `informer.py`). It therefore works with the embedded
API server and with a real kube-apiserver.

What is not real: containers with an infrastructure image (Postgres, Redis) are reported as running, but have no
process. Agent Servers get no volumes; volumes of other programs are folders at other paths. Security contexts and
resource limits have no effect. All Pods share one network: 127.0.0.1, with a local port per container.
"""
