"""The event log: one contract (`contract`), two implementations (`redis`, `memory`), export and import (`transfer`)."""
