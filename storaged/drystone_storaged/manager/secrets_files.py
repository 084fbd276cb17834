"""Master key and REST tokens: read from files, made once with the store, never logged."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError, InvalidArgumentError
from drystone_common.files import atomic_write_text, read_limited

MASTER_BYTES: Final = 32
TOKEN_CHARS_MIN: Final = 16  # 64 bits and more; ours have 256
ROLES: Final = ("read", "operate", "admin")


def load_master(path: Path, *, founded: bool, shared: bool) -> bytes:
    """Read the master key; make it only for a cluster that is not founded, and is ours alone."""
    if not path.exists():
        if founded:
            raise DataError(
                f"{path} is missing although the cluster exists",
                code="master_missing",
                hint="copy the file of another manager, or restore it: servers know only this key",
            )
        if shared:
            # Two managers that start together would make two keys.
            raise DataError(
                f"{path} is missing, and managers that share a store do not make keys",
                code="master_missing",
                hint="make one with `openssl rand -hex 32` and give all managers the same file",
            )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write_text(path, secrets.token_hex(MASTER_BYTES) + "\n")
    text = read_limited(path).decode("ascii", "replace").strip()
    try:
        master = bytes.fromhex(text)
    except ValueError:
        master = b""
    if len(master) != MASTER_BYTES:
        raise InvalidArgumentError(
            f"{path} does not hold a master key",
            code="master_invalid",
            hint="it must be 64 hexadecimal digits",
        )
    return master


def load_admin_token(path: Path) -> str:
    """Read a file that holds one token of role admin."""
    token = read_limited(path).decode("utf-8", "replace").strip()
    if len(token) < TOKEN_CHARS_MIN or not token.isascii() or not token.isprintable():
        raise InvalidArgumentError(
            f"{path} does not hold a token",
            code="tokens_invalid",
            hint=f"one line of {TOKEN_CHARS_MIN} or more printable characters",
        )
    return token


def load_tokens(path: Path, *, shared: bool = False) -> dict[str, str]:
    """Read tokens: token → role. A missing file is made with one token of each role.

    ``shared``: other managers take part, and a token that only one of them knows is of no use.
    """
    if shared and not path.exists():
        raise DataError(
            f"{path} is missing, and managers that share a store do not make tokens",
            code="tokens_missing",
            hint="write lines `role token` and give all managers the same file",
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [f"{role} {secrets.token_urlsafe(32)}\n" for role in ROLES]
        atomic_write_text(path, "".join(lines))
    tokens: dict[str, str] = {}
    for line in read_limited(path).decode("utf-8", "replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        role, _, token = line.strip().partition(" ")
        if role not in ROLES or len(token.strip()) < TOKEN_CHARS_MIN:
            raise InvalidArgumentError(
                f"{path} has a line that is not `role token`",
                code="tokens_invalid",
                hint=f"roles: {', '.join(ROLES)}; tokens have {TOKEN_CHARS_MIN} characters or more",
            )
        tokens[token.strip()] = role
    return tokens
