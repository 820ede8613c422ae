"""An image index becomes a mounted tree: fronts, the server, its records under `run/`.

Border: the only package that calls mount(2) and answers the kernel. Bytes come from
`clipfs.tiers`; a front never asks a cache itself.
"""
