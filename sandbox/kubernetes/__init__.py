"""The sandbox's Kubernetes API server: the semantics that controllers rely on, in one small process.

It is a tool for trying, testing and breaking things. `tests/conformance` checks every behaviour that it claims; this
suite passes against this server and against a real kube-apiserver. How a request travels:

    app         HTTP: paths, tokens, content types; `protobuf` bodies of kubectl's typed commands
      listing, streaming, subresources, discovery, tables     lists, watches and logs, scale, discovery documents
    negotiation, strictness            the form of an answer; invalid combinations of options, repeated fields
    registry    the verbs: create, update, patch, apply, delete
      kinds, schema, crds                the served kinds and their schemas (data)
      defaults, addresses, validation    default values and refusals (`job_status`: validation of a Job's status)
      rules, policies, expressions       CEL: rules of custom resources, admission policies, and the language
      advice                             accepted input that gets a warning
      apply, patches, selectors          field ownership, patch formats, label and field selectors
    store       objects, resourceVersions, watch history, SQLite
    collector, controllers               loops inside the process: garbage collection, namespaces, workloads
    server      the process: certificate, kubeconfig, start and stop

Known differences from a real server: the only admission plugins are namespace life cycle and ValidatingAdmissionPolicy.
There is no RBAC: the token may do everything. CEL is not typed by schemas and its cost is not limited; a few functions
are missing (see `expression_functions`). Answers are JSON only. Conversion webhooks of CRDs are ignored. Jobs are
stored, but do not run. Services get no EndpointSlices. A restart drops the watch history (watches get 410 and list
again). `kubectl exec`, `port-forward`, `autoscaling/v1` and the pvc-protection finalizer are missing.
"""
