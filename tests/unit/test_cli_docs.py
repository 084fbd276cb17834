"""`docs/cli.md` and the command tree say the same, and documents show only commands that exist."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from typing import Any

import pytest
import typer

from drystone_cli.app import app
from tests.unit.source_tree import ROOT, own_files

EVERYWHERE = {"--help", "-h", "--output", "-o", "--dir"}
"""Options that the document describes once for all commands."""

PROCESSES = {"manager", "server", "beacon", "block", "fuse-helper", "csi", "operator"}


@cache
def commands() -> dict[str, Any]:
    """Every command by its words."""
    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found[" ".join(words)] = command
            return
        for name, child in children.items():
            walk(child, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def options(command: Any) -> set[str]:
    return {name for p in command.params for name in p.opts if name.startswith("-")}


@cache
def documented() -> dict[str, str]:
    """The command block: words to the rest of the line."""
    text = (ROOT / "docs" / "cli.md").read_text()
    block = text.partition("## Commands\n\n```\n")[2].partition("```")[0]
    found = {}
    for line in block.splitlines():
        # Words begin with a letter; what follows them are names in capitals and options.
        match = re.fullmatch(r"drystone ([a-z][a-z-]*(?: [a-z][a-z-]+)?)((?: .*)?)", line)
        assert match, f"not a command: {line}"
        found[match[1].strip()] = match[2]
    return found


def test_the_document_has_exactly_the_commands_that_there_are():
    assert set(documented()) == set(commands())


@pytest.mark.parametrize("words", sorted(commands()))
def test_a_documented_command_has_exactly_its_options(words):
    shown = set(re.findall(r"--[a-z-]+", documented()[words]))
    assert shown == options(commands()[words]) - EVERYWHERE


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_command_prints_json_and_every_local_command_takes_a_folder(words):
    found = options(commands()[words])
    assert ("--output" in found) == (words not in PROCESSES)
    assert ("--dir" in found) == words.startswith("local ")


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_option_and_argument_says_what_it_is(words):
    hidden = {"help"}
    silent = [p.name for p in commands()[words].params if p.name not in hidden and not p.help]
    assert not silent


def shown_commands() -> list[tuple[str, str]]:
    """Command lines of this program in code blocks and tables of all documents."""
    found = []
    for path in own_files(".md"):
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text()
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(drystone [^`]+)`", text)
        for line in lines:
            for part in re.split(r"&&|\$\(|\)|\|| #", line):
                match = re.match(r"\s*(?:\w+=\S*\s+)*(?:uv run )?drystone (.*)", part)
                if match:
                    found.append((name, match[1].strip()))
    return found


def said_commands() -> list[tuple[str, str]]:
    """Command lines in backticks in messages and hints of the programs themselves."""
    found = []
    for path in own_files(".py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("tests/", "scripts/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = text_of(node)
            found += [(name, line) for line in re.findall(r"`drystone ([^`]+)`", text)]
    for path in own_files(".rs"):
        text = re.sub(r"\\\n\s*", "", path.read_text())
        name = path.relative_to(ROOT).as_posix()
        found += [(name, line) for line in re.findall(r"`drystone ([^`]+)`", text)]
    return found


def text_of(node: ast.AST) -> str:
    """A string of the program; what is put into it is a word."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "X" for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""


def test_every_command_line_in_a_document_is_one_that_exists():
    lines = shown_commands()
    assert len(lines) > 20, "the tour shows dozens"
    assert not unknown(lines)


def test_every_command_that_a_message_recommends_exists():
    lines = said_commands()
    assert len(lines) > 20, "hints name dozens"
    assert not unknown(lines)
    assert unknown([("a hint", "recover everything")]), "the check sees what is not there"


def unknown(lines: list[tuple[str, str]]) -> list[str]:
    """Those that the command tree does not have."""
    wrong = []
    for name, line in lines:
        if "…" in line or "|" in line or line.startswith("-"):
            continue
        words = shlex.split(line)
        if len(words) == 1 and any(each.startswith(f"{words[0]} ") for each in commands()):
            continue  # a group of commands
        known = [" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in commands()]
        given = {word.partition("=")[0] for word in words if word.startswith("-")}
        if not known or given - options(commands()[known[0]]) - {"--help"}:
            wrong.append(f"{name}: drystone {line}")
    return wrong
