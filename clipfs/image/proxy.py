"""The HTTP proxy that the environment names for an address: for documents and layers alike.

HTTPS_PROXY, HTTP_PROXY, ALL_PROXY; and NO_PROXY with names, addresses and networks (10.0.0.0/8), as
the other programs of a cluster read it. httpx and urllib know no networks, and a worker has no
environment: both are told.
Source: golang.org/x/net/http/httpproxy, `Config.NoProxy`.
"""

import ipaddress
import urllib.request
from urllib.parse import urlsplit


def proxy_for(url: str) -> str:
    """The proxy's address, which may hold a password; empty if there is none for url."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    found = proxies.get(parts.scheme) or proxies.get("all", "")
    excepted = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined] # not typed
    if not found or excepted(parts.netloc, proxies):
        return ""
    if _is_in_one_of(parts.hostname or "", proxies.get("no", "")):
        return ""
    return found if "://" in found else f"http://{found}"


def _is_in_one_of(host: str, networks: str) -> bool:
    """Whether host is an address in one of the networks, which stand among names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(network and address in network for network in map(_network, networks.split(",")))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None  # a name
