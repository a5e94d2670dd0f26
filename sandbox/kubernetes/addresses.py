"""Cluster IPs and node ports of Services: the lowest free ones of fixed ranges."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from sandbox.kubernetes.store import Stored

_NETWORK = ipaddress.ip_network("10.96.0.0/16")
_NODE_PORTS = range(30000, 32768)


def assign_addresses(services: Sequence[Stored], service: dict[str, Any]) -> None:
    """Assign the cluster IP and node ports that a Service of this type needs and lacks, in place."""
    spec = service["spec"]
    if spec["type"] == "ExternalName":
        return
    others = [at.object["spec"] for at in services if at.object["metadata"]["uid"] != service["metadata"]["uid"]]
    if not spec.get("clusterIP"):
        used = {other.get("clusterIP") for other in others}
        start = int(_NETWORK.network_address) + 2
        spec["clusterIP"] = next(
            text
            for offset in range(_NETWORK.num_addresses)
            if (text := str(ipaddress.ip_address(start + offset))) not in used
        )
    spec["clusterIPs"] = [spec["clusterIP"]]
    if spec["type"] in ("NodePort", "LoadBalancer"):
        taken = {port.get("nodePort") for other in (*others, spec) for port in other.get("ports") or ()}
        free = (number for number in _NODE_PORTS if number not in taken)
        for port in spec.get("ports") or ():
            if "nodePort" not in port:
                port["nodePort"] = next(free)
