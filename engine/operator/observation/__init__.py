"""What the operator observes of the cluster, and how observations become events.

watches             which kinds the operator watches, and which it ignores
observer            the operator's observer: what it remembers of the watched objects, fresh reads to confirm
lgp                 an LGP as the API server shows it
objects             the few fields that are kept of pods, ReplicaSets, workloads and Ingresses
ingresses, unlabelled    memory of shared Ingresses, and of objects that carry no label of ours
observed_state      everything that is known of the cluster about one LGP
compare             `observe`: the cluster compared with the log; the parts are `workloads`, `autoscalers`, `drift`
drift               what counts as drift
workloads           how the Deployments and StatefulSets are, and why their pods fail
autoscalers         whether an autoscaler works, and why not
scrubbing           secret values taken out of crash messages
"""
