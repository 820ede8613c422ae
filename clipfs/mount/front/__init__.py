"""How a tree is shown to the kernel.

Border: a front asks for bytes through the `Payloads` protocol and knows no tier.
"""
