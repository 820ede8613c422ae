"""The cluster's store of objects, from the client's side: keys in, bytes out, claims.

Border: no layer, index or disk is known here; what bytes mean, and whether they are right, is
judged above (`clipfs.tiers.content_cache`).
"""
