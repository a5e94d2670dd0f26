"""A control plane to try a data plane against: the hosted one's public API on loopback, kept in one SQLite file.

How a request travels: `api` authenticates it, validates path, query and body with the models in `resources`,
and calls a rule in `rules` inside one SQLite transaction of `store`. Status reports of the data plane take the
same way and are judged by the tables in `lifecycle`. `page` draws what people open in a browser; `server` runs it.

Decisions that the public document leaves open, and where they are written down: placement, deletion and revisions
in `rules`; order of lists in `store`; filters and who may ask in `api`; forward-only statuses in `lifecycle`.
"""
