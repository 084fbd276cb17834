"""Settings files as text: the standard library reads TOML and does not write it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

Value = str | int | bool | Sequence[str]
Table = Mapping[str, Value]


def toml_text(table: Table, arrays: Mapping[str, Sequence[Table]] | None = None) -> str:
    """Write a flat table, and after it arrays of tables (``[[name]]``) by their names."""
    lines = _lines(table)
    for name, tables in (arrays or {}).items():
        for each in tables:
            lines += ["", f"[[{name}]]", *_lines(each)]
    return "".join(f"{line}\n" for line in lines)


def _lines(table: Table) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Value) -> str:
    # JSON's strings, numbers, booleans and arrays are TOML's too, but for two things: TOML has no
    # pairs of surrogates for what is beyond 16 bits, and takes DEL only escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
