"""A control plane to test a data plane with: the hosted control plane's public API on loopback, stored in SQLite.

How a request travels: `api` authenticates it, validates path, query and body with the models in `resources`,
and calls a function of `rules` inside one SQLite transaction of `store`. Status reports of the data plane take the
same path; the tables in `lifecycle` decide which status may follow which. `page` renders a deployment for browsers;
`server` runs the application.

The public OpenAPI document leaves some decisions open. They are described in these modules: placement, deletion and
revisions in `rules`; order of lists in `store`; filters and authentication in `api`; forward-only statuses in
`lifecycle`.
"""
