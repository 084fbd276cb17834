"""Every parser of bytes from outside has a fuzz target, and `make nightly` runs it."""

from __future__ import annotations

import re
import tomllib
from typing import Final

from tests.unit.source_tree import ROOT

FUZZ: Final = ROOT / "storaged" / "native" / "fuzz"
CRATES: Final = ROOT / "storaged" / "native" / "crates"
# What every parser of the engine is made of.
PARSES: Final = re.compile(r"\bReader::new\(|\bfrom_[lb]e_bytes\b|\bdecode_header\(")
# README.md of the targets says why.
WITHOUT: Final = {"block", "server", "sim"}


def rows() -> dict[str, str]:
    """Read which crate each target covers from the table of the README."""
    table = re.findall(
        r"^\| `(\w+)` \| `([\w-]+)` \|", (FUZZ / "README.md").read_text(), re.MULTILINE
    )
    return dict(table)


def test_every_crate_that_parses_bytes_has_a_fuzz_target():
    parsing = {
        crate.name
        for crate in CRATES.iterdir()
        if any(PARSES.search(path.read_text()) for path in crate.glob("src/**/*.rs"))
    }
    assert {"frame", "types", "store", "fe-nbd"} <= parsing
    assert parsing - set(rows().values()) == WITHOUT
    assert all(f"`{crate}`" in (FUZZ / "README.md").read_text() for crate in WITHOUT)


def test_every_target_that_is_listed_exists_and_every_one_that_exists_is_listed():
    declared = tomllib.loads((FUZZ / "Cargo.toml").read_text())["bin"]
    files = {path.stem for path in (FUZZ / "fuzz_targets").glob("*.rs")}
    assert {target["name"] for target in declared} == files == set(rows())
    assert all((FUZZ / target["path"]).is_file() for target in declared)


def test_targets_stand_in_one_place_that_the_nightly_run_knows():
    assert not list(CRATES.glob("*/fuzz")), "a second fuzz crate would never be run"
    assert "scripts/fuzz.sh" in (ROOT / "scripts" / "nightly.sh").read_text()
    assert '"$NATIVE/fuzz"' in (ROOT / "scripts" / "fuzz.sh").read_text()
    assert (FUZZ / "Cargo.lock").is_file()
    assert "native/fuzz/" in (ROOT / "ARCHITECTURE.md").read_text()
