"""The life of what a node has cached: what is there, whether it is right, what may go.

Border: looks at all of `--root`, mounts included, and removes; makes and mounts nothing.
"""
