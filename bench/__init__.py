"""The numbers: what the design promises, measured, and beside it what the machine could do at best.

Every figure is compared with another one of the same run (a raw limit, a budget that counts things), never with a
number from another day or machine. Run `python -m bench`, or some of it by name.
"""
