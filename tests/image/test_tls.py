"""CAs from an administrator's file: what is in it is trusted, what is none is refused."""

from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.tls import client_context, load_ca_file
from tests.support.registry import Certificate, make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def test_certificates_are_read_past_comments_and_keys(
    certificate: Certificate, tmp_path: Path
) -> None:
    pem = certificate.cert.read_bytes()
    key = certificate.key.read_bytes()
    (tmp_path / "ca").write_bytes("# Ca\u00e7\u00e3o\r\n".encode() + pem + key + b"\n\xff\n" + pem)
    ca_pem = load_ca_file(tmp_path / "ca")
    assert ca_pem.count("BEGIN CERTIFICATE") == 2
    assert "PRIVATE KEY" not in ca_pem
    subjects = [one["subject"] for one in client_context(ca_pem).get_ca_certs()]
    assert ((("commonName", "test"),),) in subjects


def test_the_node_s_own_cas_stay_trusted(certificate: Certificate) -> None:
    own = client_context().get_ca_certs(binary_form=True)
    both = client_context(load_ca_file(certificate.cert)).get_ca_certs(binary_form=True)
    assert len(both) == len(own) + 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "no certificate", id="empty"),
        pytest.param(b"\x30\x82\x01\x00", "no certificate", id="der"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "malformed",
            id="nonsense",
        ),
        pytest.param(None, "No such file", id="no-file"),
    ],
)
def test_a_file_without_good_certificates_is_refused_by_its_name(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.InvalidInput, match=f"CA file {path}.*{words}"):
        load_ca_file(path)
