"""What managers are verified with: a file of CA certificates, taken up anew when it changes.

During a rotation the file holds the old CA and the new one, one after the other.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError, DrystoneError, InvalidArgumentError, NotFoundError
from drystone_common.files import read_limited
from drystone_common.filestamps import Stamp, stamp
from drystone_common.logs import get_logger

_log = get_logger(__name__)


def client_context(pem: bytes, source: str) -> ssl.SSLContext:
    """Verifies against these CA certificates and no others, and the name of the peer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise DataError(
            f"{source} holds no CA certificates: {error}",
            code="ca_invalid",
            hint="it wants one or more certificates as PEM; those of a cluster in Kubernetes are "
            "in the ConfigMap C-ca, key ca.crt",
        ) from error
    return context


def require_https(urls: Iterable[str]) -> None:
    """A person who names a CA means TLS: no token may leave in clear text by a wrong address."""
    for url in urls:
        if not url.startswith("https://"):
            raise InvalidArgumentError(
                f"a CA file is given, and {url} is not https",
                code="not_https",
                hint="write the address with https://, or leave the CA file out for a manager "
                "without TLS",
            )


class Trust:
    """The CA file of one client. Without a file nothing is verified, and nothing encrypted."""

    def __init__(self, file: str | Path | None) -> None:
        self._file: Final = Path(file) if file else None
        self._look: Stamp | None = None
        self._told = ""
        self._context: ssl.SSLContext | None = None
        self.pem: bytes = b""
        """What to verify with; empty = no TLS."""
        if self._file is not None:
            self._take(self._file)

    def __bool__(self) -> bool:
        """Whether TLS is spoken."""
        return self._file is not None

    def context(self) -> ssl.SSLContext:
        """For HTTP: what to verify with."""
        if self._context is None:
            self._context = client_context(self.pem, str(self._file))
        return self._context

    def refresh(self) -> bool:
        """Read the file anew if it changed; whether there is something else to verify with.

        A file that cannot be used changes nothing: what was trusted goes on to be.
        """
        if self._file is None:
            return False
        before = self.pem
        try:
            if stamp(self._file) == self._look:
                return False
            self._take(self._file)
        except (DrystoneError, OSError) as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("ca_not_loaded", error=self._told)
            return False
        if self.pem == before:
            return False
        _log.info("ca_loaded", file=str(self._file))
        return True

    def _take(self, file: Path) -> None:
        try:
            look = stamp(file)
            pem = read_limited(file)
        except (NotFoundError, OSError) as error:
            raise DataError(
                f"the CA file {file} cannot be read: {error}",
                code="ca_invalid",
                hint="the setting tls_ca_file (for commands --ca-file) names the CA certificates "
                "of the managers, as PEM",
            ) from error
        context = client_context(pem, str(file))
        self._context, self.pem, self._look, self._told = context, pem, look, ""
