"""The sandbox's Kubernetes API server: the semantics that controllers rely on, in one small process.

A tool for trying, testing and breaking things. Every behaviour it claims is checked by `tests/conformance`, a suite
that passes against this server and against a real kube-apiserver. How a request travels:

    app       HTTP: paths, tokens, content types, streaming        tables    `kubectl get` columns
    registry  verbs: create, update, patch, apply, delete          discovery what clients ask for at first
      ├─ kinds, schema, crds      what exists and what it looks like (data)
      ├─ defaults, validation     what is filled in and what is refused
      ├─ apply, patches           field ownership and the patch formats
      └─ store                    objects, resourceVersions, watch history, SQLite
    collector, controllers        loops inside the process: garbage, namespaces, workloads
"""
