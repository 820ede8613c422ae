"""clipfs: an OCI image as a read-only file system, read lazily through three tiers.

Packages stand in the order of the data and import one way only: a name becomes layers
(`image`), a layer becomes a payload and an index (`layer`), layer indexes become one image
index (`tree`), an extent becomes bytes (`tiers`), an image index becomes a mounted tree
(`mount`), and the commands are on top (`cli`). `content` is the content cache's server.
"""
