"""How a tree is shown to the kernel.

Border: a front asks for bytes through the `Payloads` protocol and knows no tier.
"""

from typing import Literal

Wanted = Literal["auto", "erofs", "fuse"]
"""The front that a mount is asked for; `auto` is whichever can."""
