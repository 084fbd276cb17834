"""Which role of token a call of the management API needs. Pure.

With the least privileged one of those at hand, a mistake of a command cannot do what its call
does not say. A test compares this with the manager's own routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

ROLES: Final = ("read", "operate", "admin")
"""Each may do what those before it may."""

_ADMIN: Final = (
    ("POST", r"/v1/join-tokens"),
    ("DELETE", r"/v1/nodes/[^/]+"),
    ("POST", r"/v1/nodes/[^/]+/drives"),
    ("DELETE", r"/v1/nodes/[^/]+/drives/.+"),
    ("DELETE", r"/v1/drives/[^/]+"),
    ("POST", r"/v1/pools"),
    ("PATCH", r"/v1/pools/[^/]+"),
    ("DELETE", r"/v1/pools/[^/]+"),
    ("POST", r"/v1/pools/[^/]+/mark-lost"),
)


def needed(method: str, path: str) -> str:
    """The role that a call needs."""
    if method == "GET":
        return "read"
    admin = any(method == verb and re.fullmatch(form, path) for verb, form in _ADMIN)
    return "admin" if admin else "operate"


def token_for(tokens: Mapping[str, str], method: str, path: str) -> str:
    """The least privileged token that suffices; none does = the best there is, to be refused."""
    start = ROLES.index(needed(method, path))
    fitting = [tokens[role] for role in ROLES[start:] if tokens.get(role)]
    known = [tokens[role] for role in ROLES if tokens.get(role)]
    return fitting[0] if fitting else known[-1] if known else ""
