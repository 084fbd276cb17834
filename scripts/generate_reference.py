"""Writes the reference parts of documents: custom resources, values of the chart, safety rules.

What stands between ``<!-- fields of KIND -->`` (``<!-- values -->``, ``<!-- rules -->``) and
``<!-- end -->`` is generated, the rest is written by hand. ``--out DIR`` writes elsewhere, for the
test that compares.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CRDS: Final = ROOT / "crds"
CRD_PAGE: Final = "docs/crds.md"
CHART_PAGE: Final = "charts/drystone/README.md"
RULES_PAGE: Final = "docs/durability.md"
CRATES: Final = ROOT / "storaged/native/crates"
VALUES: Final = ROOT / "charts/drystone/values.yaml"

Row = tuple[str, ...]

NOTHING: Final = "nothing yet"
"""What shows the absence of a rule that has no switch, or one that nothing notices."""


def fields(schema: dict[str, Any], path: str) -> Iterator[Row]:
    """Give a row for every field: path, type, default, meaning with its rules."""
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield f"`{here}`", _type(child), _default(schema, name, child), _meaning(child)
        yield from fields(child, here)
        if isinstance(child.get("items"), dict):
            yield from fields(child["items"], f"{here}[]")


def _type(schema: dict[str, Any]) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if schema["type"] == "integer" and low is not None and high is not None:
        return f"{low} to {high}"
    if schema["type"] == "array":
        return f"list, ≤ {schema['maxItems']}"
    if "additionalProperties" in schema:
        return f"map, ≤ {schema['maxProperties']}"
    return str(schema.get("format") if schema.get("format") == "date-time" else schema["type"])


def _default(parent: dict[str, Any], name: str, schema: dict[str, Any]) -> str:
    if name in parent.get("required", []):
        return "**required**"
    default = schema.get("default")
    return "" if default in (None, {}, [], "") else f"`{json.dumps(default)}`".replace('"', "")


def _meaning(schema: dict[str, Any]) -> str:
    rules = [rule["message"] for rule in schema.get("x-kubernetes-validations", [])]
    text = " ".join([schema["description"], *(f"*{rule}.*" for rule in rules)])
    return text.replace("|", "\\|").replace("\n", " ")


def values(text: str) -> Iterator[Row]:
    """Give a row for every value that has a ``# --`` comment: key, default, meaning."""
    defaults = yaml.safe_load(text)
    keys: list[tuple[int, str]] = []
    meaning = ""
    for line in text.splitlines():
        comment = re.fullmatch(r"\s*# -- (.*)", line)
        if comment:
            meaning = comment[1]
            continue
        key = re.match(r"( *)([A-Za-z]+):", line)
        if key is None:
            continue
        keys = [one for one in keys if one[0] < len(key[1])] + [(len(key[1]), key[2])]
        if meaning:
            path = [name for _, name in keys]
            default = _at(defaults, path)
            yield f"`{'.'.join(path)}`", f"`{json.dumps(default)}`", meaning.replace("|", "\\|")
            meaning = ""


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value[name]
    return value


def table(head: Row, rows: Iterator[Row]) -> str:
    """Write rows as a table of Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def replaced(text: str, mark: str, new: str) -> str:
    """Put ``new`` between a mark and the end that follows it."""
    begin, end = f"<!-- {mark} -->\n", "<!-- end -->"
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page lacks {begin.strip()} … {end}")
    return f"{head}{begin}\n{new}\n{ended}{tail}"


def crd_page() -> str:
    """Write the page of the custom resources."""
    text = (ROOT / CRD_PAGE).read_text()
    for path in sorted(CRDS.glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        (version,) = crd["spec"]["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        for part in ("spec", "status"):
            rows = fields(schema["properties"][part], part)
            shown = table(("field", "type", "default", "meaning"), rows)
            text = replaced(text, f"{part} of {crd['spec']['names']['kind']}", shown)
    return text


def chart_page() -> str:
    """Write the page of the chart."""
    rows = values(VALUES.read_text())
    return replaced(
        (ROOT / CHART_PAGE).read_text(), "values", table(("value", "default", "meaning"), rows)
    )


def rule_rows(crates: Path) -> Iterator[Row]:
    """Give a row for every rule: name, meaning, what shows its absence."""
    shown = schedules(crates / "sim/src/scenario")
    mutate = (crates / "sim/src/mutate.rs").read_text()
    units = dict(re.findall(r'\(Rule::(\w+), "(\w+)"\)', mutate))
    _, _, rest = mutate.partition("NOT_YET: &[Rule] = &[")
    missing = re.findall(r"Rule::(\w+)", rest.partition("];")[0])
    for name, meaning in rules((crates / "types/src/rules.rs").read_text()):
        if name in missing:
            yield f"`{name}`", meaning, NOTHING
            continue
        found = [f'"{schedule}"' for schedule in shown.get(name, [])]
        found += [f"`{units[name]}`"] if name in units else []
        yield f"`{name}`", meaning, ", ".join(found) or "random seeds"


def rules(text: str) -> list[tuple[str, str]]:
    """Name and meaning of every rule, in their order."""
    _, _, body = text.partition("\nrules! {\n")
    return [
        (name, " ".join(line.strip().removeprefix("///").strip() for line in doc.splitlines()))
        for doc, name in re.findall(r"((?: +///[^\n]*\n)+) +(\w+),", body)
    ]


def schedules(folder: Path) -> dict[str, list[str]]:
    """For each rule the schedules that are played with it off."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.rs")):
        text = path.read_text()
        starts = [m.start() for m in re.finditer(r"Scenario::new\(", text)]
        for begin, end in pairwise([*starts, len(text)]):
            # The list of a file's schedules ends before its first function.
            one = text[begin:end].partition("\n}\n")[0]
            name = re.search(r'"([^"]+)"', one)
            for rule in re.findall(r"Rule::(\w+)", one):
                if name and name[1] not in found.setdefault(rule, []):
                    found[rule].append(name[1])
    return found


def rules_page() -> str:
    """Write the page of the promises: the rules behind them."""
    head = ("rule", "what it says", "what shows its absence")
    text = (ROOT / RULES_PAGE).read_text()
    return replaced(text, "rules", table(head, rule_rows(CRATES)))


def generated() -> dict[str, str]:
    """Give every page with a generated part by its path."""
    return {CRD_PAGE: crd_page(), CHART_PAGE: chart_page(), RULES_PAGE: rules_page()}


def main() -> None:
    """Write them below the root, or below ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT)
    out: Path = parser.parse_args().out
    for name, text in generated().items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    main()
