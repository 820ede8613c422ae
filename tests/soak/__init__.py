"""What takes its time: promises about minutes, kept for real minutes, with the figures.

`python -m tests.soak` runs all of them, `make soak` for short; not a part of `make test`, which
runs the same code with seconds for minutes. Real drivers, registries, sockets and mounts.
"""
