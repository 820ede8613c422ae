"""Layer indexes become one image index: merge, EROFS writer, EROFS reader.

Border: pure functions over bytes and files. No network, no mounts, no tiers.
"""
