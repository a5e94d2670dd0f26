"""`agentplane`, the command line. main.py lists every command; each command's work is in the module of its name.

status.py  events.py  export.py (also import)  replay.py  doctor/  adoption.py  leases.py  pause.py (also resume)
release_deletions.py  archive.py  uninstall.py  sandbox.py (up, demo)  processes.py (listener, operator, …)

output.py prints tables, JSON and errors; summaries.py says in a line what an event means; log.py opens the event log.

Exit codes, for scripts: 0 success; 1 a check, a deployment, a replay or a step of the demo failed, or `--yes` is
missing; 2 the command could not run (settings, Redis, an unknown deployment). As usual, 130 after Ctrl-C, and 141 when
the reader of the output closes the pipe. `events --follow` ends with 0 on Ctrl-C, `up` on Ctrl-C and SIGTERM.
"""
