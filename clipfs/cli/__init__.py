"""The commands: options in, one call, words or JSON out.

Border: nothing below prints; nothing here decides.
"""
