"""What a command line and its environment name of managers: addresses, tokens, certificates."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import Final

URL_VARIABLE: Final = "DRYSTONE_URL"
CA_FILE_VARIABLE: Final = "DRYSTONE_CA_FILE"
TOKEN_FILE_VARIABLE: Final = "DRYSTONE_TOKEN_FILE"  # noqa: S105 - the name of a variable

ca_file_option: ContextVar[Path | None] = ContextVar("ca_file", default=None)
"""``--ca-file`` of the command that runs: it stands before the command's name, for all of them."""


def ca_file() -> Path | None:
    """CA certificates of the managers, by the command line, else by the variable."""
    chosen = ca_file_option.get() or os.environ.get(CA_FILE_VARIABLE)
    return Path(chosen) if chosen else None


def token_file() -> Path | None:
    """A file with one token."""
    chosen = os.environ.get(TOKEN_FILE_VARIABLE)
    return Path(chosen) if chosen else None
