"""Fuzzers of what parses other people's bytes, one target a parser.

    python -m tests.fuzz tar --seconds 600        goes on from the corpus, and keeps it

A target calls its parser and judges the answer: a result that holds, or an error that clipfs
raises on purpose. Anything else is a finding, and so are a hang and memory without bound.

Border: targets import clipfs; the rest (`engine`, `worker`, `instrument`, `corpus`) knows none.
"""
