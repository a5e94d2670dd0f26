"""The event log: one contract (`contract`) and two implementations (`redis`, `memory`).

`scripts` has the atomic operations of the log in Redis, `sentinels` finds its master, `export` writes and reads files,
`retention` archives and trims.
"""
