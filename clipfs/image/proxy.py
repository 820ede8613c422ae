"""The HTTP proxy that the environment names for an address: for layers as for documents.

httpx reads HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY by itself; a worker has no
environment, so it is told.
"""

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
    return found if "://" in found else f"http://{found}"
