"""An authority of the cluster's own, and the certificate of its managers.

Elliptic curve P-256: small, quick, known to every TLS library in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS: Final = 3650
"""The next one is made after two thirds of it: people who keep copies have years to follow."""

LEAF_DAYS: Final = 90
"""Short, because it is renewed without anybody; managers take the new one up as they run."""

SKEW: Final = timedelta(minutes=10)  # a node whose clock is behind must not refuse a new one


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        """Without the key."""
        return "Pair(…)"


@dataclass(frozen=True, slots=True)
class Known:
    """What a certificate says."""

    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    @property
    def life_s(self) -> float:
        """For how long it was made."""
        return (self.not_after - self.not_before).total_seconds()

    def left_s(self, now: datetime) -> float:
        """How much of it is to come; below zero where it is over."""
        return (self.not_after - now).total_seconds()

    def used(self, now: datetime) -> float:
        """Share of it that is over."""
        return 1 - self.left_s(now) / self.life_s if self.life_s > 0 else 1.0


def authority(name: str, now: datetime) -> Pair:
    """A new authority, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(_certificate_text(made), _key_text(key))


def issue(by: Pair, hosts: Sequence[str], now: datetime) -> Pair:
    """A certificate for these names and addresses, signed by the authority."""
    issuer = x509.load_pem_x509_certificate(by.certificate.encode())
    signer = serialization.load_pem_private_key(by.key.encode(), password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is of another kind than ours")
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([_general(host) for host in hosts])
    signer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(min(now + timedelta(days=LEAF_DAYS), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(signer_key, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Pair(_certificate_text(made), _key_text(key))


def read(pem: str) -> Known | None:
    """What a certificate says; None = it is none."""
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
        hosts = _hosts(found)
    except ValueError:
        return None
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    return Known(hosts, begin.astimezone(UTC), end.astimezone(UTC))


def is_issued(pem: str, by: str) -> bool:
    """Whether an authority signed a certificate."""
    try:
        issuer = x509.load_pem_x509_certificate(by.encode())
        x509.load_pem_x509_certificate(pem.encode()).verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _hosts(found: x509.Certificate) -> tuple[str, ...]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _certificate_text(made: x509.Certificate) -> str:
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
