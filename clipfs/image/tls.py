"""Whom TLS trusts: the node's own CAs, and those that the administrator names beside them.

CAs travel as PEM text, so that a worker is told of them and opens no file.
"""

import re
import ssl
from pathlib import Path

from clipfs import errors

MAX_CA_BYTES = 4 << 20
"""A bundle of all public CAs has 0.2 MB."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")

TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For connections without TLS: were one asked for TLS all the same, no peer would do."""


def client_context(ca_pem: str = "") -> ssl.SSLContext:
    """For connections that we open; SSL_CERT_FILE may say where the node's own CAs are."""
    context = ssl.create_default_context()
    if ca_pem:
        context.load_verify_locations(cadata=ca_pem)
    return context


def load_ca_file(path: Path) -> str:
    """Its certificates, without the comments; InvalidInput if it has none that are good."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CA_BYTES).decode("latin-1")
    except OSError as error:
        raise errors.InvalidInput(f"CA file {path}: {error.strerror}") from error
    ca_pem = "\n".join(_CERTIFICATE.findall(text))
    try:
        if ca_pem:
            client_context(ca_pem)
            return ca_pem
    except (ssl.SSLError, ValueError) as error:
        raise errors.InvalidInput(f"CA file {path}: a certificate is malformed") from error
    raise errors.InvalidInput(f"CA file {path} holds no certificate in PEM form")
