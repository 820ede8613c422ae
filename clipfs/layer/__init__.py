"""A blob becomes a payload and a layer index, in a worker process.

Border: bytes that nobody has verified live only here. What leaves has the digests that the
manifest and the config promised, and an index that says what every chunk must be.
"""
