"""Documents point at things that exist, and show commands that exist."""

from __future__ import annotations

import re

from tests.unit.source_tree import ROOT, own_files

LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)[^)]*\)")


def test_every_relative_link_leads_to_a_file():
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in own_files(".md")
        for target in LINK.findall(path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not broken


def test_every_make_target_shown_in_a_document_exists():
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {
        (path.relative_to(ROOT).as_posix(), target)
        for path in own_files(".md")
        for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", path.read_text(), re.MULTILINE)
    }
    assert shown, "the README shows at least make demo and make test"
    assert {(name, target) for name, target in shown if target not in targets} == set()


def test_the_first_screen_of_the_readme_shows_the_two_commands():
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_decisions_are_numbered_once_and_without_gaps():
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_glossary_words_stand_in_alphabetical_order():
    text = (ROOT / "docs" / "glossary.md").read_text()
    words = re.findall(r"^\| \*\*([^*]+)\*\*", text, re.MULTILINE)
    assert words == sorted(words)
