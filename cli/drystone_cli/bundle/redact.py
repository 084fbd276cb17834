"""Takes secrets out of texts and objects, by known values and by what secrets look like. Pure.

What is thrown away by mistake costs a question; what is left in by mistake costs a key. So this
errs on one side.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any, Final

REDACTED: Final = "[redacted]"
KNOWN_CHARS_MIN: Final = 8  # shorter values stand in ordinary words
DEPTH_MAX: Final = 64  # deeper objects are not ones of Kubernetes

_WORDS: Final = (
    r"secret|token|passw(?:or)?d|passwd|passphrase|credential|authorization|cookie|api[_-]?key"
    r"|private[_-]?key|master[_-]?key|access[_-]?key|signing[_-]?key|ticket"
)
_SECRET_KEY: Final = re.compile(rf"(?:{_WORDS})|(?:^|[_.-])key$", re.IGNORECASE)
_PLACE: Final = re.compile(
    r"(?:name|names|ref|refs|file|files|dir|path|mode|kind|type|namespace|version|token[_-]?count"
    r"|expirationseconds|secrets|accounttoken)$",
    re.IGNORECASE,
)
"""Keys that say where a secret is, or whether there is one, and not what it is."""

_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
    r"(?:.{0,20000}?-----END [A-Z0-9 ]*PRIVATE KEY-----|(?:[A-Za-z0-9+/=]|\s|\\[nr])*)",
    re.DOTALL,
)
_SCHEME: Final = re.compile(r"\b(Bearer|Basic)(\s+|%20)[A-Za-z0-9+/=._~-]{6,}", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(://[^/\s:@\"']*:)[^/\s@\"']+(@)")
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
_PAIR: Final = re.compile(
    rf"(?P<key>(?:--)?(?:[A-Za-z0-9_.-]*(?:{_WORDS})[A-Za-z0-9_.-]*|[A-Za-z0-9_.]*[_.-]key))"
    r"(?P<between>\\?[\"']?\s*(?:=|:)\s*|\s+)"
    r"(?P<value>\\?\"(?:[^\"\\]|\\.)*\\?\"|'[^']*'|[^\s,;}\]\"']+)",
    re.IGNORECASE,
)
_HEX_KEY: Final = re.compile(
    # After a colon or slash it is a digest or a container, after `csi-` a VolumeAttachment.
    r"(?<![0-9a-fA-F:/])(?<!csi-)[0-9a-fA-F]{64}(?![0-9a-fA-F])"
)
_RANDOM: Final = re.compile(r"(?<![A-Za-z0-9_+/=-])[A-Za-z0-9_-]{32,}={0,2}(?![A-Za-z0-9_+/=-])")
"""Tokens of ours have 32 or 43 such characters; names of Kubernetes have no capitals."""


class Redactor:
    """Knows some secrets by their values, and all by their looks."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = sorted({form for value in known for form in forms(value)}, key=len)[::-1]

    def text(self, text: str) -> str:
        """A text without secrets."""
        for value in self._known:
            text = text.replace(value, REDACTED)
        text = _PEM.sub(REDACTED, text)
        text = _JWT.sub(REDACTED, text)
        text = _SCHEME.sub(rf"\1 {REDACTED}", text)
        text = _USERINFO.sub(rf"\1{REDACTED}\2", text)
        text = _PAIR.sub(_pair, text)
        text = _HEX_KEY.sub(REDACTED, text)
        return _RANDOM.sub(_random, text)

    def value(self, value: Any, depth: int = 0) -> Any:
        """An object without the values of keys that name secrets, and its texts as above."""
        if depth > DEPTH_MAX:
            return REDACTED
        if isinstance(value, dict):
            if value.get("kind") == "Secret" and ("data" in value or "stringData" in value):
                value = {**value, "data": REDACTED, "stringData": REDACTED}
            named = isinstance(value.get("name"), str) and secret_key(value["name"])
            return {
                key: REDACTED
                if (secret_key(str(key)) or (named and key == "value")) and _holds(item)
                else self.value(item, depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(item, depth + 1) for item in value]
        return self.text(value) if isinstance(value, str) else value


def forms(value: str) -> list[str]:
    """A secret as it is, and as other layers write it."""
    value = value.strip()
    if len(value) < KNOWN_CHARS_MIN:
        return []
    found = [value, value.upper(), value.lower()] if _is_hex(value) else [value]
    for raw in (
        value.encode(),
        f"{value}\n".encode(),
        *([_unhex(value)] if _is_hex(value) else []),
    ):
        encoded = (base64.b64encode(raw), base64.urlsafe_b64encode(raw))
        found += [form.decode().rstrip("=") for form in encoded]
    return found


def secret_key(key: str) -> bool:
    """Whether a key names a secret, and not where one is."""
    return bool(_SECRET_KEY.search(key)) and not _PLACE.search(key)


def _holds(item: Any) -> bool:
    """A text is a secret; a number, a flag and an empty thing are not; parts are looked at."""
    return isinstance(item, str) and bool(item)


def _pair(match: re.Match[str]) -> str:
    key, between, value = match["key"], match["between"], match["value"]
    bare = value.strip("\\\"'")
    if not secret_key(key) or bare in ("", "true", "false", "null", "None", REDACTED):
        return match[0]
    if not between.strip() and not key.startswith("--") and not _looks_random(bare):
        return match[0]  # "the token is not valid": words in a sentence
    quote = value[: len(value) - len(value.lstrip("\\\"'"))]
    return f"{key}{between}{quote}{REDACTED}{quote}"


def _random(match: re.Match[str]) -> str:
    return REDACTED if _looks_random(match[0]) else match[0]


def _looks_random(text: str) -> bool:
    kinds = (str.isupper, str.islower, str.isdigit)
    return all(any(kind(c) for c in text) for kind in kinds)


def _is_hex(value: str) -> bool:
    return bool(re.fullmatch(r"(?:[0-9a-fA-F]{2})+", value))


def _unhex(value: str) -> bytes:
    return bytes.fromhex(value)
