"""A payload's tar members become entries; no I/O."""
