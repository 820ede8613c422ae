"""How a tree is shown to the kernel.

Border: a front asks for bytes through the `Payload` protocol and knows no tier.
"""
