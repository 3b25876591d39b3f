"""A certificate authority of the tests' own, with a server's certificate for loopback and one for its clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """Files of a certificate and its key, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Who vouches for both sides of a connection."""

    certificate: Path
    server: Identity
    client: Identity


def authority(folder: Path, *, address: str | None = "127.0.0.1") -> Authority:
    """A new one, whose files are put into `folder`; its server is called localhost, and by this address."""
    root_key, root_name = ec.generate_private_key(ec.SECP256R1()), named("authority of the tests")
    ca = x509.BasicConstraints(ca=True, path_length=0)
    root = signed(root_key, root_name, root_key, root_name, [(ca, True)])
    (folder / "ca.pem").write_bytes(pem(root))
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    if address is not None:
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
    loopback = x509.SubjectAlternativeName(names)
    made = {}
    for who, usage in (("server", ExtendedKeyUsageOID.SERVER_AUTH), ("client", ExtendedKeyUsageOID.CLIENT_AUTH)):
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = [(x509.ExtendedKeyUsage([usage]), False), (loopback, False)]
        leaf = signed(key, named(who), root_key, root_name, extensions)
        made[who] = Identity(folder / f"{who}.pem", folder / f"{who}-key.pem")
        made[who].certificate.write_bytes(pem(leaf))
        made[who].key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return Authority(folder / "ca.pem", made["server"], made["client"])


def named(who: str) -> x509.Name:
    """A name that says no more than who it is."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])


def signed(
    key: PrivateKey,
    name: x509.Name,
    root_key: PrivateKey,
    root_name: x509.Name,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """A certificate of today for `name`, which `root_name` vouches for; extensions with whether they are critical."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(root_key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    """As files hold it."""
    return certificate.public_bytes(serialization.Encoding.PEM)
