"""Adopts an LGP whose objects exist already: another operator made them, or ours did before its log was lost.

How adoption works:

1. Before the operator applies the first object of an LGP, `discover` looks for the LGP's Deployments, Services and
   StatefulSets in the cluster.
2. `choose` decides what the operator keeps of each object: the database with the data, the pods that keep running, the
   selectors. The result is the event `ObjectsAdopted`, and `OperatorState.adopted`.
3. From then on manifests are made beside the adopted objects (engine/operator/manifests/adopted.py), under their names.
4. Before the operator applies an adopted workload, `inspect` looks at the workload again: the workload may be gone, its
   pods may already be what the LGP asks for now, or the fields that the other operator set must become ours first.

    discover         the reads of the cluster, and the one write: fields of other managers become ours
    choose           what the operator keeps of each object (pure)
    database         which Postgres has the data of the LGP (pure)
    differences      in which fields running pods are not what the LGP asks for (pure)
    field_managers   which fields of a workload are ours (pure)
"""
