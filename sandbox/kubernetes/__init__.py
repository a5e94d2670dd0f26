"""The sandbox's Kubernetes API server: the semantics that controllers rely on, in one small process.

A tool for trying, testing and breaking things. Every behaviour it claims is checked by `tests/conformance`, a suite
that passes against this server and against a real kube-apiserver. How a request travels:

    app         HTTP: paths, tokens, content types; `protobuf` bodies of kubectl's typed commands
      listing, streaming, subresources, discovery, tables     lists, watches and logs, scale, what clients ask first
    registry    the verbs: create, update, patch, apply, delete
      kinds, schema, crds                what exists and what it looks like (data)
      defaults, addresses, validation    what is filled in and what is refused
      rules, expressions                 CEL: the rules of custom resources, and the language
      apply, patches, selectors          field ownership, patch formats, queries
    store       objects, resourceVersions, watch history, SQLite
    collector, controllers               loops inside the process: garbage, namespaces, workloads
    server      the process: certificate, kubeconfig, start and stop

Known differences from a real server: no admission plugins but namespace life cycle; no RBAC, the token may do
everything; CEL rules are not typed by their schema, cost nothing, and lack a few functions (`expression_functions` says
which); conversion webhooks of CRDs are ignored; history is forgotten on a restart (watches get 410 and list again); no
`kubectl exec`, `port-forward`, `autoscaling/v1`, no pvc-protection finalizer.
"""
