"""Which files of the checkout are ours, and where functions begin and end in them."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

# Made by builds or tools, or the environment; never ours to judge.
_SKIPPED_DIRS: Final = {
    ".git", ".venv", ".tools", "target", "node_modules", "dist", "build", "__pycache__",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
}  # fmt: skip
_GENERATED: Final = re.compile(r"(_pb2(_grpc)?\.pyi?|\.lock)$")


@dataclass(frozen=True, slots=True)
class Function:
    """A function and the lines it covers, signature and closing brace included."""

    name: str
    line: int
    lines: int


def own_files(*suffixes: str) -> Iterator[Path]:
    """Walk hand-written files with one of ``suffixes``; all text files without any."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_DIRS)
        for name in sorted(names):
            if not _GENERATED.search(name) and (not suffixes or name.endswith(suffixes)):
                yield Path(folder, name)


def python_functions(source: str) -> list[Function]:
    """List every function and method, nested ones too; decorators do not count."""
    return [
        Function(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


_RUST_NOISE: Final = re.compile(
    r"""
      //[^\n]*                                   # line comment
    | b?r(?P<hash>\#*)"(?:.|\n)*?"(?P=hash)      # raw string
    | [bc]?"(?:\\(?:.|\n)|[^"\\])*"              # string, escapes and line continuations
    | b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'    # character, and not a lifetime
    """,
    re.VERBOSE,
)


def blank_rust_noise(source: str) -> str:
    """Replace comments and literals by spaces, keeping every line where it was."""

    def blank(text: str) -> str:
        return re.sub(r"[^\n]", " ", text)

    out: list[str] = []
    at = 0
    while at < len(source):
        if source.startswith("/*", at):
            end = _block_comment_end(source, at)
        else:
            match = _noise_at(source, at)
            end = match.end() if match else at
        if end > at:
            out.append(blank(source[at:end]))
            at = end
        else:
            out.append(source[at])
            at += 1
    return "".join(out)


def _noise_at(source: str, at: int) -> re.Match[str] | None:
    # The r of `for"` or of an identifier is not a raw string's prefix.
    if source[at] in "brc" and at > 0 and (source[at - 1].isalnum() or source[at - 1] == "_"):
        return None
    return _RUST_NOISE.match(source, at) if source[at] in "/\"'brc" else None


def _block_comment_end(source: str, start: int) -> int:
    """Rust's block comments nest."""
    depth = 0
    for match in re.finditer(r"/\*|\*/", source[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    return len(source)


def rust_functions(source: str) -> list[Function]:
    """List every `fn` with a body; declarations in traits have none."""
    code = blank_rust_noise(source)
    found = []
    for match in re.finditer(r"\bfn\s+([A-Za-z_]\w*)", code):
        end = _rust_body_end(code, match.end())
        if end is not None:
            first = code.count("\n", 0, match.start()) + 1
            found.append(Function(match[1], first, code.count("\n", 0, end) + 2 - first))
    return found


def _rust_body_end(code: str, start: int) -> int | None:
    """Find the brace that closes the body, or ``None`` where `;` ends the declaration."""
    depth = 0  # brackets of the signature: `[u8; 4]` holds a `;` that ends nothing
    braces = 0
    for match in re.finditer(r"[(){}\[\];]", code[start:]):
        sign = match[0]
        if sign == "{":
            braces += 1
        elif sign == "}":
            braces -= 1
            if braces == 0:
                return start + match.start()
        elif braces == 0:
            if sign == ";" and depth == 0:
                return None
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(sign, 0)
    return None
