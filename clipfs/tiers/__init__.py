"""An extent of a layer becomes bytes: node disk, content cache, registry, nearest first.

Border: the only package that reads payload for a mount. What leaves a tier has been checked
against the layer index; nothing above this package knows which tier answered.
"""
