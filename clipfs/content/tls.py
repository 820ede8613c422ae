"""TLS from a certificate file and a key file.

Not here: who the client is, which its token says (`clipfs.content.tokens`).
Source: RFC 9325 (recommendations for TLS: 1.2 and newer).
"""

import ssl
from pathlib import Path

from clipfs import errors


class TlsFiles:
    """The two files, which may be replaced while the server runs.

    context  for new connections; of the files as they last were good
    """

    def __init__(self, cert: Path, key: Path) -> None:
        """InvalidInput names the file that is wrong."""
        self._cert = cert
        self._key = key
        self.context = self._read()

    def read_again(self) -> None:
        """As the constructor; after an error the context is the one before."""
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        for option, path in (("--tls-cert", self._cert), ("--tls-key", self._key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise errors.InvalidInput(f"{option} {path}: {error.strerror}") from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except ssl.SSLError as error:
            raise errors.InvalidInput(self._reason(error)) from error
        return context

    def _reason(self, error: ssl.SSLError) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"--tls-key {self._key}: not the key of the certificate in {self._cert}"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self._cert)
        except ssl.SSLError:
            return f"--tls-cert {self._cert}: no certificate in PEM"
        return f"--tls-key {self._key}: no key in PEM that can be read without a password"


def _no_password() -> str:
    """Without this OpenSSL would ask at the terminal."""
    return ""
