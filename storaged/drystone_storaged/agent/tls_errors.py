"""What a failed connection says of TLS, in words that tell what to do."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from drystone_common.errors import UnavailableError

PROBE_S: Final = 1.0  # a manager that lives begins a handshake in milliseconds

EXPIRED: Final = "certificate_expired"
NOT_YET: Final = "certificate_not_yet_valid"
WRONG_NAME: Final = "certificate_wrong_name"
UNKNOWN: Final = "certificate_unknown_ca"
REFUSED: Final = "certificate_refused"
PLAIN: Final = "tls_not_spoken"
SECURE: Final = "tls_expected"

_WORDS: Final = {
    EXPIRED: (
        "its certificate has expired",
        (
            "put a new one in the place of tls_cert_file and tls_key_file; managers take it up as "
            "they run. In Kubernetes the operator renews it: see its log. Is the clock of this "
            "machine right?"
        ),
    ),
    NOT_YET: ("its certificate is not valid yet", "compare the clocks of this machine and of it"),
    WRONG_NAME: (
        "its certificate is for other names",
        "reach it by a name or an address that the certificate has, or make one that has this one",
    ),
    UNKNOWN: (
        "its certificate is of a CA that is not trusted here",
        (
            "tls_ca_file (for commands --ca-file or DRYSTONE_CA_FILE) must hold the CA of the "
            "managers' certificates; in Kubernetes it is in the ConfigMap C-ca, key ca.crt"
        ),
    ),
    REFUSED: ("its certificate cannot be verified", "see the reason; docs/operations.md, TLS"),
    PLAIN: (
        "it does not speak TLS",
        (
            "give it tls_cert_file and tls_key_file, or use http:// and no CA file. Is it the port "
            "of the manager?"
        ),
    ),
    SECURE: (
        "it speaks TLS, and was called without",
        (
            "write its address with https:// and name the CA of its certificate: tls_ca_file, for "
            "commands --ca-file or DRYSTONE_CA_FILE"
        ),
    ),
}
_BY_VERIFY_CODE: Final = {
    9: NOT_YET, 10: EXPIRED, 62: WRONG_NAME, 64: WRONG_NAME,
    18: UNKNOWN, 19: UNKNOWN, 20: UNKNOWN, 21: UNKNOWN,
}  # fmt: skip
"""OpenSSL's X509_V_ERR_*."""

_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
)
"""OpenSSL's reasons where the answer to our greeting is none of TLS."""

_BY_TEXT: Final = (
    ("certificate has expired", EXPIRED),
    ("certificate is not yet valid", NOT_YET),
    ("Hostname Verification Check failed", WRONG_NAME),
    ("is not in peer certificate", WRONG_NAME),
    ("unable to get local issuer certificate", UNKNOWN),
    ("unable to get issuer certificate", UNKNOWN),
    ("self signed certificate", UNKNOWN),
    ("self-signed certificate", UNKNOWN),
    ("CERTIFICATE_VERIFY_FAILED", REFUSED),
    ("WRONG_VERSION_NUMBER", PLAIN),
)
"""What gRPC says; it hands on nothing but text."""


def trouble(code: str, where: str, reason: str = "") -> UnavailableError:
    """The error for a code."""
    said, hint = _WORDS[code]
    return UnavailableError(
        f"{where} cannot be used: {said}{f' ({reason})' if reason else ''}", code=code, hint=hint
    )


def of_error(error: BaseException, where: str, url: str) -> UnavailableError | None:
    """What an error of an HTTP client says of TLS; None = something else is wrong.

    May connect once more to tell a manager with TLS, called without, from one that went away;
    so in an event loop call it in a thread.
    """
    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            code = _BY_VERIFY_CODE.get(one.verify_code, REFUSED)
            return trouble(code, where, one.verify_message.rstrip("."))
        if isinstance(one, ssl.SSLError) and one.reason in _NO_TLS:
            return trouble(PLAIN, where)
    parts = urlsplit(url)
    gone = type(error).__name__ in ("RemoteProtocolError", "ReadError", "WriteError")
    if not gone or parts.scheme != "http" or not parts.hostname or not parts.port:
        return None
    return trouble(SECURE, where) if speaks_tls(parts.hostname, parts.port) else None


def of_text(text: str, where: str) -> UnavailableError | None:
    """The same for what gRPC says of a channel with TLS."""
    return next((trouble(code, where) for part, code in _BY_TEXT if part in text), None)


def speaks_tls(host: str, port: int) -> bool:
    """Whether somebody answers a handshake there. Nothing is sent over it, nothing verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, port), PROBE_S) as plain,
        context.wrap_socket(plain),
    ):
        return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
