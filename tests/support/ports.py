"""Ports for servers that must be told theirs, and that come again on the one they had.

They lie below those that the kernel gives to anyone: no connection and no other server's port 0
takes one before its server listens, or while that is down. A UDP socket of the same number is
this process' claim on it, held until the process ends: the kernel refuses a second one.
"""

import random
import socket
from contextlib import suppress
from pathlib import Path

_LOWEST = 15_000
_ANYONES = Path("/proc/sys/net/ipv4/ip_local_port_range")
_claims: list[int] = []


def free_port() -> int:
    """A TCP port of loopback that is this process' own."""
    highest = int(_ANYONES.read_text().split()[0]) - 1
    for port in random.sample(range(_LOWEST, highest), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                claim.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                raise
            _claims.append(claim.detach())
            return port
    raise RuntimeError("no port of 1,000 is free")
