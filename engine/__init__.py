"""The engine: an event log, two pure state machines (listener and operator) and the ports they act through.

Nothing in here knows Celery. `bootstrap` wires adapters to ports; `runtime.advance` is the only loop.
"""
