"""A blob's bytes, in order, from a registry that may break off, stall, drip or know no ranges."""
