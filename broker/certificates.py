"""A certificate authority of one's own, and the broker's certificate from it. X.509 by the cryptography package.

Pure functions of values and bytes; `command.py` writes the files. Start at `server_certificate`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS, SERVER_DAYS = 3650, 825


def new_key() -> bytes:
    """Return a P-256 private key, PEM, not encrypted: its file's mode protects it."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def authority(key: bytes, name: str = "genre-edge broker CA", now: datetime | None = None) -> bytes:
    """Return a self-signed CA certificate, PEM."""
    private = _load(key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        False, False, False, False, False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
    )
    certificate = (
        _builder(subject, subject, private, CA_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def server_certificate(
    ca_certificate: bytes, ca_key: bytes, key: bytes, hosts: Sequence[str], now: datetime | None = None
) -> bytes:
    """Return a certificate for a server that answers to every name and address in hosts, PEM."""
    names = [_general_name(host) for host in hosts]
    return _signed(ca_certificate, ca_key, key, hosts[0][:64], names, ExtendedKeyUsageOID.SERVER_AUTH, now)


def client_certificate(
    ca_certificate: bytes, ca_key: bytes, key: bytes, user: str, now: datetime | None = None
) -> bytes:
    """Return a certificate by which a broker that asks for one knows a client, PEM; its common name is the user's."""
    names = [x509.DNSName(user)]
    return _signed(ca_certificate, ca_key, key, user[:64], names, ExtendedKeyUsageOID.CLIENT_AUTH, now)


def _signed(
    ca_certificate: bytes,
    ca_key: bytes,
    key: bytes,
    common_name: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime | None,
) -> bytes:
    private, issuer_key = _load(key), _load(ca_key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    certificate = (
        _builder(subject, x509.load_pem_x509_certificate(ca_certificate).subject, private, SERVER_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def hosts_of(certificate: bytes) -> list[str]:
    """Return the names and addresses that a certificate is for."""
    loaded = x509.load_pem_x509_certificate(certificate)
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*names.get_values_for_type(x509.DNSName), *(str(ip) for ip in names.get_values_for_type(x509.IPAddress))]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, now: datetime | None
) -> x509.CertificateBuilder:
    # A Jetson without a battery wakes up in the past: a day's grace, and docs/install.md says to set the clock first.
    start = (now or datetime.now(timezone.utc)) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )


def _load(key: bytes) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key, password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")
    return loaded


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
