"""The commands: options in, one call, words or JSON out.

Border: nothing below prints; nothing here decides.
"""

import sys

# structlog and httpx load rich where they can, for what we never ask of them, and every command
# would pay 90 ms for that: until `progress` lets it in, its import fails, as if it were absent.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]

# httpx' own command line, which loads pygments
sys.modules["httpx._main"] = None  # type: ignore[assignment]
