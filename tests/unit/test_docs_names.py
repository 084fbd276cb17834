"""What documents name exists, and what exists is named: crates, tests, calls, metrics, events."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripts.generate_reference import rule_rows

from drystone_cli.csi_process import CsiSettings
from drystone_common.errors import ExitCode
from drystone_common.logs import redact
from drystone_common.metrics import Metrics
from drystone_csi.metrics import CsiMetrics
from drystone_operator.metrics import OperatorMetrics
from drystone_storaged.agent.process import DaemonSettings
from drystone_storaged.beacon.app import BeaconMetrics
from drystone_storaged.block.app import BlockMetrics
from drystone_storaged.block.settings import BlockSettings
from drystone_storaged.fuse.app import FuseMetrics
from drystone_storaged.fuse.settings import FuseHelperSettings
from drystone_storaged.manager.metrics import manager_metrics
from drystone_storaged.manager.rest import app as rest_app
from drystone_storaged.manager.rest.guard import TokenTable
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.manager.tally import Tally
from drystone_storaged.server.device_metrics import DeviceMetrics
from drystone_storaged.server.settings import DriveSettings, ServerSettings
from drystone_storaged.server.status import ServerMetrics
from tests.unit.source_tree import ROOT, own_files

CRATES = ROOT / "storaged" / "native" / "crates"
DOCS = ROOT / "docs"
TEST_NAME_WORDS_MIN = 4
"""Names of tests are sentences; shorter words in backticks are fields, codes and commands."""

LOGGERS = {"_log", "log", "logger"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def section(path: Path, heading: str) -> str:
    """The text below a heading, to the next one of the same level."""
    parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
    (found,) = [part for part in parts if part.startswith(heading + "\n")]
    return found


def quoted(text: str) -> list[str]:
    """Everything in backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def product_files() -> Iterator[Path]:
    """Python files that are shipped."""
    for path in own_files(".py"):
        if not path.relative_to(ROOT).as_posix().startswith(("tests/", "scripts/")):
            yield path


@cache
def names_of_tests() -> frozenset[str]:
    """Names of every Rust and Python function, tests among them."""
    found: set[str] = set()
    for path in own_files(".rs"):
        found |= set(re.findall(r"\bfn ([a-z]\w+)", path.read_text()))
    for path in own_files(".py"):
        found |= set(re.findall(r"\bdef (test_\w+)", path.read_text()))
    return frozenset(found)


def cited_tests(text: str) -> set[str]:
    """Words in backticks that are names of tests by their form."""
    words = [word for word in quoted(text) if re.fullmatch(r"[a-z][a-z0-9_]+", word)]
    return {word for word in words if word.count("_") >= TEST_NAME_WORDS_MIN - 1}


def code_map() -> str:
    return section(ROOT / "ARCHITECTURE.md", "Code map")


def test_every_crate_stands_in_the_code_map():
    crates = {path.parent.name for path in CRATES.glob("*/Cargo.toml")}
    shown = set(re.findall(r"^  ([a-z-]+) +\S", code_map(), re.MULTILINE))
    assert crates - shown == set()
    assert "bindings/" in code_map()


def test_every_python_package_stands_in_the_code_map():
    roots = [ROOT / name for name in ("storaged", "csi", "common", "cli")]
    packages = {
        path.parent.name
        for root in roots
        for path in root.glob("drystone_*/**/__init__.py")
        if path.parent.name != "__pycache__"
    }
    assert {name for name in packages if f"{name}/" not in code_map()} == set()


def test_the_code_map_names_nothing_that_is_not_there():
    crates = code_map().partition("crates/")[2].partition("storaged/native/bindings")[0]
    for name in re.findall(r"^  ([a-z-]+) +\S", crates, re.MULTILINE):
        assert (CRATES / name / "Cargo.toml").exists(), name
    for name in re.findall(r"^((?:[a-z_]+/)+) ", code_map(), re.MULTILINE):
        assert (ROOT / name).is_dir(), name


@pytest.mark.parametrize("name", ["docs/durability.md", "ARCHITECTURE.md"])
def test_every_test_that_a_contract_cites_exists(name):
    cited = cited_tests((ROOT / name).read_text())
    assert cited, "the contract names its tests"
    assert cited - names_of_tests() == set()


def invariants() -> list[list[str]]:
    rows = section(ROOT / "ARCHITECTURE.md", "Invariants").splitlines()
    found = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "| I" in row]
    assert [row[0] for row in found] == [f"I{n}" for n in range(1, len(found) + 1)]
    return found


def rust_source(crate: str) -> str:
    return "\n".join(path.read_text() for path in sorted((CRATES / crate / "src").rglob("*.rs")))


def test_an_invariant_is_asserted_where_the_table_says_and_nowhere_else():
    crates = ("replica", "sequencer", "store", "membership")
    sources = {crate: rust_source(crate) for crate in crates}
    for number, _, asserted, _, _ in invariants():
        own = re.compile(rf'"(?:I\d+, )*{number}[,:]')
        assert {crate for crate in crates if own.search(sources[crate])} == (
            {asserted} & set(crates)
        ), number


def test_an_invariant_has_the_oracle_that_the_table_says():
    source = rust_source("sim")
    for number, _, _, oracle, _ in invariants():
        assert bool(re.search(rf'"{number}[":]', source)) == (oracle == "yes"), number


def routes() -> set[tuple[str, str]]:
    services: Any = SimpleNamespace()
    found = rest_app.create_app(services, TokenTable({})).openapi()["paths"]
    return {
        (method.upper(), re.sub(r"\{[^}]*\}", "{}", path.removeprefix("/v1")))
        for path, methods in found.items()
        for method in methods
    }


def test_every_rest_call_is_documented_and_the_reverse():
    table = section(DOCS / "rest-api.md", "Calls")
    shown = {
        (method, re.sub(r"\{[^}]*\}", "{}", path))
        for method, path in re.findall(r"\b(GET|POST|PATCH|DELETE|PUT) `(/[^`\[]*)", table)
    }
    assert shown == routes()


def exposed(metrics: Metrics) -> set[str]:
    found = re.findall(r"^# HELP (drystone_\w+)", metrics.render().decode(), re.MULTILINE)
    return {name for name in found if not name.endswith("_created")}


def served() -> dict[str, set[str]]:
    """What each process shows, before anything happened in it."""
    nothing: Any = SimpleNamespace()
    services: Any = SimpleNamespace(
        leadership=SimpleNamespace(leads=True),
        feed=SimpleNamespace(latest=lambda: None, refused=()),
        sessions=SimpleNamespace(all=lambda _role: []),
        tally=Tally(),
        upkeep=SimpleNamespace(outlook=SimpleNamespace(figures={})),
    )
    names = ("server", "beacon", "block", "csi", "fuse_helper", "operator")
    made = {name: Metrics(name, "1") for name in names}
    ServerMetrics(made["server"], nothing)
    DeviceMetrics(made["server"], nothing)
    BeaconMetrics(made["beacon"], nothing, nothing)
    BlockMetrics(made["block"], nothing)
    CsiMetrics(made["csi"])
    FuseMetrics(made["fuse_helper"], SimpleNamespace(watched=0, on_lost=[]))  # type: ignore[arg-type]
    OperatorMetrics(made["operator"])
    made["manager"] = manager_metrics(services, float)
    return {name.replace("_", "-"): exposed(metrics) for name, metrics in made.items()}


def documented_metrics(process: str) -> set[str]:
    rows = section(DOCS / "metrics.md", process).splitlines()
    cells = [row.split(" | ")[0] for row in rows if row.startswith("| `")]
    return {word.partition("{")[0] for cell in cells for word in quoted(cell)}


@pytest.mark.parametrize("process", sorted(served()))
def test_every_metric_of_a_process_is_documented_and_the_reverse(process):
    shared = documented_metrics("all")
    assert shared == {"drystone_build_info"}
    assert documented_metrics(process) == served()[process] - shared


def events() -> set[str]:
    found: set[str] = set()
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in LOGGERS
            ):
                (name, *_) = node.args
                assert isinstance(name, ast.Constant), f"{path}: an event has a fixed name"
                found.add(str(name.value))
    return found


def test_every_log_event_is_documented_and_the_reverse():
    table = section(DOCS / "operations.md", "Log events")
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    shown = {word for row in rows for word in quoted(row)}
    assert events() - shown == set(), "add a line to docs/operations.md"
    assert shown - events() == set(), "docs/operations.md names events that nobody logs"


def test_every_reason_to_refuse_a_drive_is_documented():
    table = section(DOCS / "operations.md", "A drive is refused")
    shown = {word for row in table.splitlines() if row.startswith("| `") for word in quoted(row)}
    known: set[str] = set()
    for name in ("prepare.py", "drive.py"):
        text = (ROOT / "storaged/drystone_storaged/server" / name).read_text()
        known |= set(
            re.findall(r'(?:code=|^        )"(drive_\w+|wrong_cluster)"', text, re.MULTILINE)
        )
    assert {"drive_lost", "drive_foreign"} <= known
    assert known - shown == set()


def test_every_exit_code_is_documented():
    table = section(DOCS / "cli.md", "Exit codes")
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert {int(code) for code in ExitCode} | {130} == shown


def test_every_scenario_that_the_contract_cites_exists():
    source = "\n".join(path.read_text() for path in (CRATES / "sim/src/scenario").rglob("*.rs"))
    known = set(re.findall(r'Scenario::new\(\s*"([^"]+)"', source))
    text = (DOCS / "durability.md").read_text()
    # In all of it: a title has several words, and may be cut short by an ellipsis.
    cited = {title for title in re.findall(r'"([^"\n]+)"', text) if " " in title}
    cut = {title.removesuffix("…").rstrip() for title in cited if title.endswith("…")}
    assert len(cited) > 100
    assert {title for title in cited if not title.endswith("…")} - known == set()
    assert [title for title in cut if not any(each.startswith(title) for each in known)] == []


def test_every_counter_that_the_contract_cites_exists():
    source = rust_source("sim")
    counted = set(re.findall(r'"([a-z0-9_]+\.[a-z0-9_]+)"', source))
    # These take every field of a struct of counters.
    whole = set(re.findall(r'add_fields\("([a-z]+)"', source))
    fields = {
        field
        for crate in ("sim", "replica", "store", "sequencer")
        for field in re.findall(r"(?m)^ +(?:pub )?([a-z0-9_]+)(?:: u64)?,", rust_source(crate))
    }
    text = (DOCS / "durability.md").read_text()
    cited: set[str] = set()
    for head in ("| fault | what happens | counters |", "| oracle | looks at | counters |"):
        rows = text.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
        cited |= {word for row in rows for word in quoted(row.rpartition(" | ")[2])}
    assert len(cited) > 40
    for name in cited - counted:
        group, _, field = name.partition(".")
        if field == "*":
            assert any(each.startswith(f"{group}.") for each in counted), name
        else:
            assert group in whole, name
            assert field in fields, name


def test_every_rule_stands_in_the_contract_with_what_shows_its_absence():
    names = [row[0] for row in rule_rows(CRATES)]
    shown = (DOCS / "durability.md").read_text().partition("<!-- rules -->")[2]
    assert len(names) > 60
    assert [name for name in names if f"| {name} |" not in shown] == []


def test_every_setting_is_documented_and_the_reverse():
    common = set(DaemonSettings.model_fields)
    wanted = {
        "All but the manager, fuse-helper and csi": common,
        "server": (set(ServerSettings.model_fields) - common) | set(DriveSettings.model_fields),
        "block": set(BlockSettings.model_fields) - common,
        "fuse-helper": set(FuseHelperSettings.model_fields),
        "manager": set(ManagerSettings.model_fields),
        "csi": set(CsiSettings.model_fields),
    }
    for heading, names in wanted.items():
        table = section(DOCS / "settings.md", heading)
        shown = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
        assert shown == names, heading


def test_every_number_of_the_wire_protocol_is_documented():
    source = (CRATES / "types/src/msg.rs").read_text()
    table = section(DOCS / "wire-protocol.md", "Numbers")

    def enum(name: str) -> dict[str, int]:
        body = source.partition(f"pub enum {name} {{")[2].partition("\n}")[0]
        return {word: int(n) for word, n in re.findall(r"^    (\w+) = (\d+),", body, re.MULTILINE)}

    def row(name: str) -> dict[str, int]:
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
        return {word: int(n) for word, n in re.findall(r"(\w+) (\d+)", line)}

    def shouted(word: str) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).upper()

    flags = dict(re.findall(r"pub const (\w+): Flags = Flags\((\d+)\)", source))
    assert row("types") == {shouted(word): number for word, number in enum("MsgType").items()}
    assert row("status") == enum("Status")
    assert row("flags") == {word: int(number) for word, number in flags.items()}


def test_no_log_line_hides_its_own_fields():
    """What is named like a secret is taken out of every line; what should be read is not."""
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in LOGGERS
            ):
                fields = {str(word.arg): "shown" for word in node.keywords if word.arg}
                assert redact(None, "", dict(fields)) == fields, f"{path}:{node.lineno}"
