"""Recorded logs of real runs, replayed: today's code must still decide and make what was decided and made then."""
