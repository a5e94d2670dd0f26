"""Benchmarks: they measure the budgets of the design, and compare each rate with the limit of the machine.

Every figure is compared with a figure of the same run (a raw limit) or with a budget, never with a number from another
day or machine. `python -m bench` runs all benchmarks; `python -m bench NAME …` runs some of them.
"""
