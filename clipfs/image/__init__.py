"""A name becomes layers: references, manifests, the registry's protocol.

Border: what the registry says enters here and is checked against the digest that named it.
No layer is opened here; the bytes of a blob are read by `clipfs.layer`.
"""
