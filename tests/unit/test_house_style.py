"""Sizes and boundaries that keep the code readable; each rule stands in ARCHITECTURE.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.source_tree import ROOT, own_files, python_functions, rust_functions

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# The only places that start programs: devices, the local cluster, mounts of the plugin, kubectl.
STARTS_PROGRAMS = (
    "storaged/drystone_storaged/attach/",
    "storaged/drystone_storaged/local/",
    "csi/drystone_csi/mounts",
    "csi/drystone_csi/runner.py",
    "cli/drystone_cli/kube/kubectl.py",
)
TALKS_TO_DATABASE = (
    "storaged/drystone_storaged/cluster/store_",
    "storaged/drystone_storaged/cluster/sqlite_",
)
PROCESS_MODULES = {"subprocess", "pty", "multiprocessing"}
PROCESS_CALLS = {
    "create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell",
    "system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp",
    "execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp",
}  # fmt: skip
DATABASES = {"sqlite3", "aiosqlite", "aetcd", "etcd3"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def product_modules() -> Iterator[tuple[str, ast.Module]]:
    for path in own_files(".py"):
        name = relative(path)
        if not name.startswith(("tests/", "scripts/")) and "/tests/" not in name:
            yield name, ast.parse(path.read_text())


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def called_attributes(tree: ast.Module) -> set[str]:
    return {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def test_the_walk_sees_python_and_rust():
    names = {relative(path) for path in own_files(".py", ".rs")}
    assert "common/drystone_common/ids.py" in names
    assert any(name.endswith(".rs") for name in names)


def test_no_module_is_longer_than_600_lines():
    long = {
        relative(path): lines
        for path in own_files(".py", ".rs", ".pyi")
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES_MAX
    }
    assert not long, f"split these by concept: {long}"


@pytest.mark.parametrize(
    ("suffix", "functions"), [(".py", python_functions), (".rs", rust_functions)]
)
def test_no_function_is_longer_than_70_lines(suffix, functions):
    long = [
        f"{relative(path)}:{function.line} {function.name}: {function.lines} lines"
        for path in own_files(suffix)
        for function in functions(path.read_text())
        if function.lines > FUNCTION_LINES_MAX
    ]
    assert not long, "give the parts of these names of their own:\n" + "\n".join(long)


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    # Put together here, so that this file does not find itself.
    foreign = ["/" + "work/", "/" + "root/", "/tmp/" + "ds/", "/" + "farm/"]
    text_files = own_files(
        ".py", ".pyi", ".rs", ".sh", ".md", ".toml", ".yaml", ".yml", ".proto", "Makefile", "run"
    )
    found = [
        f"{relative(path)}: {needle}"
        for path in text_files
        for needle in foreign
        if needle in path.read_text(errors="replace")
    ]
    assert not found


def test_no_source_root_is_a_package():
    roots = ["operator", "csi", "storaged", "common", "cli"]
    assert [root for root in roots if (ROOT / root / "__init__.py").exists()] == []


def test_programs_are_started_in_few_places_only():
    offenders = [
        name
        for name, tree in product_modules()
        if not name.startswith(STARTS_PROGRAMS)
        and (
            {module.partition(".")[0] for module in imported(tree)} & PROCESS_MODULES
            or "asyncio.subprocess" in imported(tree)
            or called_attributes(tree) & PROCESS_CALLS
        )
    ]
    assert not offenders, f"start programs only in {STARTS_PROGRAMS}: {offenders}"


def test_no_program_is_started_through_a_shell():
    offenders = []
    for name, tree in product_modules():
        shells = called_attributes(tree) & {"create_subprocess_shell", "subprocess_shell", "system"}
        keywords = {
            keyword.arg
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "shell"
        }
        if shells or keywords:
            offenders.append(name)
    assert not offenders


def test_only_the_store_implementations_talk_to_a_database():
    offenders = [
        name
        for name, tree in product_modules()
        if not name.startswith(TALKS_TO_DATABASE)
        and {module.partition(".")[0] for module in imported(tree)} & DATABASES
    ]
    assert not offenders


def test_only_the_manager_reaches_the_metadata_store():
    allowed = ("storaged/drystone_storaged/cluster/", "storaged/drystone_storaged/manager/")
    offenders = [
        name
        for name, tree in product_modules()
        if not name.startswith(allowed)
        and any(module.startswith("drystone_storaged.cluster.store") for module in imported(tree))
    ]
    assert not offenders
