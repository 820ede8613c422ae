"""The content cache's server: immutable objects over HTTP, in files.

Border: knows keys, bytes and tokens, nothing of images; imports `clipfs.errors` alone.
"""
