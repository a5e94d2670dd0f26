"""The event log: one contract (`contract`), two implementations (`redis`, `memory`), what moves it and what bounds it.

`transfer` exports and imports, `retention` archives and trims; `lua` holds the atomic steps of the one in Redis.
"""
