"""A certificate authority for tests, which issues certificates."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    """Writes NAME.pem for itself, and NAME.pem and NAME.key for each certificate, into a directory.

    signer: the authority that signs this one, which is then an intermediate. The certificates have
    the extensions that OpenSSL's strict checks require: clients on Python 3.13 and later make these
    checks.
    """

    def __init__(self, directory: Path, name: str = "ca", signer: Authority | None = None) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of the tests")])
        signer = signer or self
        no_more = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        builder = (
            signer._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .add_extension(
                x509.KeyUsage(**no_more, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False), True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        )
        self._certificate = builder.sign(signer._key, hashes.SHA256())
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: PrivateKey, days: float = 2.0) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )

    def issue(
        self,
        name: str,
        *hosts: str,
        days: float = 2.0,
        usage: x509.ObjectIdentifier | None = None,
        key: PrivateKey | None = None,
    ) -> tuple[Path, Path]:
        """Returns the paths of a certificate for `hosts` (names or addresses) and of its key.
        usage: the only extended key usage.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key, days).add_extension(x509.SubjectAlternativeName(names), False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
        certificate = self._directory / f"{name}.pem"
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        private = self._directory / f"{name}.key"
        private.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return certificate, private
