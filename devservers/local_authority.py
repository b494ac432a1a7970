"""A certificate authority in a folder, for trying out mutual TLS on one machine.

Not for production: its private key is stored unencrypted beside the certificates.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANISATION: Final = "fleetloop"
VEHICLES: Final = "vehicles"
SERVICES: Final = "services"
_DAY: Final = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The PEM files of a certificate and its private key."""

    certificate_path: Path
    key_path: Path


class LocalAuthority:
    """Issues certificates for loopback with the subject CN=name, OU=unit, O=fleetloop.

    An authority that exists in the folder is used again.
    """

    def __init__(self, folder: Path, name: str = "fleetloop-local") -> None:
        self.folder = folder
        self.path = folder / "ca.pem"
        self._key_path = folder / "ca-key.pem"
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.is_file() and self._key_path.is_file():
            self._certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
            key = serialization.load_pem_private_key(self._key_path.read_bytes(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TypeError(
                    f"{self._key_path} holds a {type(key).__name__}; it must be an elliptic curve key"
                )
            self._key = key
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, self._key.public_key(), datetime.timedelta(days=365))
        self._certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True).sign(
            self._key, hashes.SHA256()
        )
        _write_key(self._key_path, self._key)
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, unit: str = VEHICLES, *, lasts: datetime.timedelta = 30 * _DAY) -> Certificate:
        """Issue a certificate for client and server use. A negative `lasts` gives an expired one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        loopback = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        signed = (
            _builder(subject, self._certificate.subject, key.public_key(), lasts)
            .add_extension(x509.SubjectAlternativeName(loopback), False)
            .add_extension(x509.ExtendedKeyUsage(usages), False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .sign(self._key, hashes.SHA256())
        )
        made = Certificate(self.folder / f"{unit}-{name}.pem", self.folder / f"{unit}-{name}-key.pem")
        _write_key(made.key_path, key)
        made.certificate_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return made


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lasts: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY + min(lasts, datetime.timedelta(0)))
        .not_valid_after(now + lasts)
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    plain = serialization.NoEncryption()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
