"""The sandbox's Kubernetes API server: the semantics that controllers rely on, in one small process.

A tool for trying, testing and breaking things. Every behaviour it claims is checked by `tests/conformance`, a suite
that passes against this server and against a real kube-apiserver. How a request travels:

    app         HTTP: paths, tokens, content types; `protobuf` bodies of kubectl's typed commands
      listing, streaming, subresources, discovery, tables     lists, watches and logs, scale, what clients ask first
    negotiation, strictness            the form of an answer; options and fields that do not go together
    registry    the verbs: create, update, patch, apply, delete
      kinds, schema, crds                what exists and what it looks like (data)
      defaults, addresses, validation    what is filled in and what is refused (`job_status`: of a Job's status)
      rules, policies, expressions       CEL: rules of custom resources, admission policies, and the language
      advice                             what is taken with a warning
      apply, patches, selectors          field ownership, patch formats, queries
    store       objects, resourceVersions, watch history, SQLite
    collector, controllers               loops inside the process: garbage, namespaces, workloads
    server      the process: certificate, kubeconfig, start and stop

Known differences from a real server: of admission, namespace life cycle and ValidatingAdmissionPolicies only; no RBAC,
the token may do everything; CEL is not typed by schemas, its cost not limited, and a few functions are missing
(`expression_functions` says which); answers are JSON only; conversion webhooks of CRDs are ignored; Jobs are kept, not
run; Services get no EndpointSlices; history is forgotten on a restart (watches get 410 and list again); no `kubectl
exec`, `port-forward`, `autoscaling/v1`, no pvc-protection finalizer.
"""
