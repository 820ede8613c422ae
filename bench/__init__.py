"""Benchmarks: the installed commands beside their peers. `python -m bench` runs them all.

Nothing here imports the product: it is run, as anyone would run it.
"""
