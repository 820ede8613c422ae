"""Benchmarks: the installed commands beside their peers. `python -m bench` runs them all.

Nothing here imports the product, which is run as anyone would run it; but for the content cache's
client, a part that no command shows alone (`bench.content_client`).
"""
