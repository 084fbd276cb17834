"""The manager's own certificate: one pair for REST and the control channel, followed as it changes.

Files are looked at, not watched: Kubernetes swaps a link far above them, which a watch on the file
never sees.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import grpc

from drystone_common.errors import DataError, DrystoneError, NotFoundError
from drystone_common.files import read_limited
from drystone_common.filestamps import stamps
from drystone_common.logs import get_logger
from drystone_storaged.manager.settings import ManagerSettings

POLL_S: Final = 5.0
"""Kubelet takes a minute to bring a new Secret, which was made weeks before the old one ends."""

_HINT: Final = (
    "tls_cert_file wants the certificate and what stands between it and the CA, tls_key_file its "
    "key without a password, both PEM"
)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """Certificate chain and key, known to belong together."""

    chain: bytes
    key: bytes = field(repr=False)
    not_after: float
    """Seconds since the epoch."""


def read_pair(cert_file: Path, key_file: Path) -> Pair:
    """Read and check both files; ``DataError`` says what is wrong with them."""
    # Imported here: a manager without TLS, as every local one, saves some MiB.
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above

    chain, key = read_limited(cert_file), read_limited(key_file)
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError) as error:
        raise _bad(f"{cert_file} holds no certificate: {error}") from error
    try:
        known = serialization.load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError) as error:
        raise _bad(f"{key_file} holds no key that can be read: {error}") from error
    if known != leaf.public_key():
        raise _bad(f"the key in {key_file} is not that of the certificate in {cert_file}")
    return Pair(chain, key, leaf.not_valid_after_utc.astimezone(UTC).timestamp())


def _bad(message: str) -> DataError:
    return DataError(message, code="certificate_invalid", hint=_HINT)


class ServerCertificate:
    """The pair in use; connections that stand keep theirs, new ones get the newest."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._files: Final = (cert_file, key_file)
        self._seen = stamps(self._files)
        self._told = ""
        self._over = False
        self.pair = read_pair(*self._files)
        self._context = _context(self.pair)
        # Connections begin with this one; each is then given the newest.
        self._entrance = _context(self.pair)
        self._entrance.sni_callback = self._choose
        self._tell()

    @property
    def context(self) -> ssl.SSLContext:
        """For REST; stays the same object for ever."""
        return self._entrance

    def ends(self) -> float:
        """When the pair in use ends, seconds since the epoch; for the metric."""
        return self.pair.not_after

    def credentials(self) -> grpc.ServerCredentials:
        """For the control channel; gRPC asks for the newest pair at each handshake."""
        given = self.pair

        def newest() -> Any:
            nonlocal given
            if given is self.pair:
                return None  # gRPC's word for "as before": nothing is parsed anew
            given = self.pair
            return _configuration(given)

        return grpc.dynamic_ssl_server_credentials(_configuration(given), newest)

    def reload(self) -> bool:
        """Take the files up if they changed; what cannot be used is told and changes nothing."""
        look = stamps(self._files)
        if look == self._seen:
            return False
        try:
            pair = read_pair(*self._files)
            context = _context(pair)
        except (DrystoneError, OSError, ssl.SSLError) as error:
            # Looked at again: the two files may be swapped one after the other.
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("certificate_not_loaded", error=self._told, hint=_HINT)
            return False
        self._seen, self._told = look, ""
        if pair == self.pair:
            return False
        self.pair, self._context = pair, context
        self._tell()
        return True

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            if not self.reload() and not self._over and self.pair.not_after <= time.time():
                self._tell()

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        connection.context = self._context

    def _tell(self) -> None:
        left_days = round((self.pair.not_after - time.time()) / 86_400, 1)
        self._over = self.pair.not_after <= time.time()
        if self._over:
            hint = "clients refuse it; put a new one in its place, it is taken up without a restart"
            _log.error("certificate_expired", file=str(self._files[0]), hint=hint)
        else:
            _log.info("certificate_loaded", file=str(self._files[0]), days_left=left_days)


def server_certificate(settings: ManagerSettings) -> ServerCertificate | None:
    """What the settings name; None = no TLS."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    try:
        return ServerCertificate(settings.tls_cert_file, settings.tls_key_file)
    except (NotFoundError, OSError) as error:
        raise _bad(str(error)) from error


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])


def _context(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # From memory: read a second time, the files might be another pair, or half of one.
    descriptor = os.memfd_create("drystone-tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pair.chain + b"\n" + pair.key)
        stream.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
