"""Control groups of a node: it sees its own as the root, as a machine does.

Both layouts are known: one folder per controller (version 1) and one for all (version 2).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from tests.e2e.kube.settings import Lab, LabError, node_name
from tests.e2e.lib.waits import wait_for

ROOT: Final = Path("/sys/fs/cgroup")
NAME: Final = "drystone-kube"
FILE: Final = "cgroups.json"
INSIDE: Final = "init"
OUTSIDE: Final = "outside"
EMPTY_S: Final = 20.0

WEIGHT: Final = 16
"""Of all nodes together, in processes of the machine: without it they would have that of one."""


def is_v2() -> bool:
    """Whether this machine has the one hierarchy."""
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> dict[str, Path]:
    """Version 1: controllers and their mounts."""
    found = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup" and Path(target).parent == ROOT:
            found[Path(target).name] = Path(target)
    return found


def begin(lab: Lab) -> None:
    """Decide where the lab's groups are, for every later run of the program.

    Version 1: below the groups of whoever starts it, so that limits on that one hold here too.
    """
    own = _own_groups()
    found = {name: target / own.get(name, "").strip("/") for name, target in hierarchies().items()}
    if is_v2():
        found = {"": ROOT}
    if not found:
        raise LabError("no control groups are mounted below /sys/fs/cgroup")
    text = json.dumps({name: str(folder / NAME) for name, folder in found.items()})
    (lab.folder / FILE).write_text(text)


def roots(lab: Lab) -> dict[str, Path]:
    """The lab's group in every hierarchy."""
    try:
        data = json.loads((lab.folder / FILE).read_text())
    except FileNotFoundError:
        return {}
    return {name: Path(folder) for name, folder in data.items()}


def folders(lab: Lab, number: int) -> dict[str, Path]:
    """The node's group in every hierarchy."""
    return {name: folder / node_name(number) for name, folder in roots(lab).items()}


def make(lab: Lab, number: int) -> None:
    """Make the groups of a node."""
    for name, folder in folders(lab, number).items():
        folder.mkdir(parents=True, exist_ok=True)
        if name == "cpu":
            (folder.parent / "cpu.shares").write_text(str(1024 * WEIGHT))
        if name == "cpuset":
            for level in (folder.parent, folder):
                for file in ("cpuset.cpus", "cpuset.mems"):  # a new one is empty until told
                    (level / file).write_text((level.parent / file).read_text())
    if is_v2():
        (roots(lab)[""] / OUTSIDE).mkdir(exist_ok=True)
        for level in (ROOT, roots(lab)[""]):
            _delegate(level)
        weight = roots(lab)[""] / "cpu.weight"
        if weight.exists():
            weight.write_text(str(100 * WEIGHT))


def enter(lab: Lab, number: int) -> None:
    """Move this process into the groups of a node, which a new namespace then shows as the root."""
    for folder in folders(lab, number).values():
        (folder / "cgroup.procs").write_text(str(os.getpid()))


def step_aside(lab: Lab) -> None:
    """Version 2: processes may be in leaves only, so the one that holds the node leaves it."""
    if is_v2():
        (roots(lab)[""] / OUTSIDE / "cgroup.procs").write_text(str(os.getpid()))


def settle_inside() -> None:
    """Version 2, as process 1 of a node: go to a leaf, and hand every controller to kubelet."""
    leaf = ROOT / INSIDE
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text(str(os.getpid()))
    _delegate(ROOT)


def freeze(lab: Lab, number: int, *, frozen: bool) -> None:
    """Stop every process of a node, or let them go on."""
    if is_v2():
        _write(folders(lab, number)[""] / "cgroup.freeze", "1" if frozen else "0")
        return
    folder = folders(lab, number).get("freezer")
    if folder is None:
        raise LabError("this machine has no freezer control group, so nodes cannot be frozen")
    _write(folder / "freezer.state", "FROZEN" if frozen else "THAWED")


def remove(lab: Lab, number: int) -> None:
    """Remove the groups of a dead node, once the kernel has let its processes go."""
    found = [folder for folder in folders(lab, number).values() if folder.is_dir()]

    def empty() -> bool:
        return all(_clear(folder) for folder in found)

    wait_for(empty, f"the control groups of {node_name(number)} to be empty", EMPTY_S)


def remove_roots(lab: Lab) -> None:
    """Remove the groups that all nodes had together."""
    for folder in roots(lab).values():
        if folder.is_dir():
            _clear(folder)


def _clear(folder: Path) -> bool:
    for path, _, _ in os.walk(folder, topdown=False):
        try:
            Path(path).rmdir()
        except OSError:
            return not Path(path).exists()
    return True


def _own_groups() -> dict[str, str]:
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        found.update(dict.fromkeys(names.removeprefix("name=").split(","), path))
    return found


def _delegate(folder: Path) -> None:
    names = (folder / "cgroup.controllers").read_text().split()
    for name in names:
        _write(folder / "cgroup.subtree_control", f"+{name}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise LabError(f"cannot write {text} to {path}: {error.strerror}") from error
