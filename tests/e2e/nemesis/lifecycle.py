"""Beginning and end of a run: under the machine's lock, after cleaning, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.lib.shell import LabError, Started, need, run
from tests.e2e.lib.waits import NotSeenError, wait_for
from tests.e2e.nemesis.net import LINKS, Net
from tests.e2e.nemesis.netns import argv_in
from tests.e2e.nemesis.settings import (
    BRIDGE,
    NAMESPACES,
    PREFIX,
    ROOT,
    Lab,
    held,
    left_behind,
)

INSTALL: Final = "as root: apt-get install iproute2 nftables util-linux procps"
OURS: Final = "ours"
KEPT: Final = "kept"
GONE_S: Final = 20.0  # a killed process that is still there is stuck in the kernel


@dataclass(frozen=True, slots=True)
class Run:
    """A network that is up, and everything that was started in it."""

    lab: Lab
    net: Net
    started: Started

    def start(
        self, name: str, group: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> int:
        """Start a program in a group's network; ``name`` is also that of its log. Gives its id.

        `started` signals it, asks whether it lives and waits for its end, by this name.
        """
        log = self.lab.log / f"{name}.log"
        return self.started.start(name, argv_in(group, argv), log, cwd=ROOT, env=env)

    def keep_folder(self) -> None:
        """Whoever looks into a failed run finds its folder."""
        self.lab.mark.write_text(KEPT)


@contextlib.contextmanager
def running(
    lab: Lab, groups: Sequence[str] | None = None, *, wait_s: float = 0.0, keep: bool = False
) -> Iterator[Run]:
    """A run with these groups, all of the lab if none are named. At the end all is taken away.

    The folder too, unless it is to ``keep`` or `Run.keep_folder` was called meanwhile.
    """
    need_all()
    with held(lab.folder, wait_s=wait_s) as died:
        for folder in died:
            _remove(Lab(folder))
        _remove(lab)
        _make_folder(lab, keep=keep)
        started = Started(lab.pids)
        net = Net(lab, groups or lab.groups, started)
        try:
            net.make()
            yield Run(lab, net, started)
        finally:
            _remove(lab, started)


def down(folder: Path, *, wait_s: float = 0.0) -> None:
    """End and remove what a run left that did not end by itself; nothing there is fine.

    A folder that is kept stays: its journals are what later runs are checked against.
    """
    need_all()
    if not left_behind() and not leftovers(folder):
        return
    with held(folder, wait_s=wait_s) as died:
        for each in dict.fromkeys([*died, folder]):
            _remove(Lab(each))


def need_all() -> None:
    """Refuse where a run cannot be."""
    if os.geteuid() != 0:
        raise LabError("a nemesis run makes network namespaces: run it as root")
    need("ip", "nft", "tc", "nsenter", "sysctl", how=INSTALL)
    if not Path("/dev/net/tun").exists():
        raise LabError("no /dev/net/tun: `modprobe tun`, or a kernel that has it")


def leftovers(folder: Path) -> list[str]:
    """What is there of a run: namespaces, links, processes, folders."""
    lab = Lab(folder)
    started = Started(lab.pids)
    return [
        *(f"namespace {name}" for name in _namespaces()),
        *(f"link {name}" for name in _links()),
        *(f"process {name}" for name in started.names() if started.pid(name) is not None),
        *(f"folder {path}" for path in (lab.pids, lab.shared) if path.exists()),
    ]


def _make_folder(lab: Lab, *, keep: bool) -> None:
    lab.folder.mkdir(parents=True, exist_ok=True)
    if not lab.mark.exists() and any(lab.folder.iterdir()):
        raise LabError(f"{lab.folder} has files that are no run's: name an empty folder")
    lab.mark.write_text(KEPT if keep else OURS)


def _remove(lab: Lab, started: Started | None = None) -> None:
    started = Started(lab.pids) if started is None else started
    # Only in a folder that a run marked: one that was named by mistake keeps all that is in it.
    names = started.names() if lab.mark.exists() else []
    for name in names:
        started.kill(name)
    for name in names:
        _tolerant(lambda name=name: started.wait_gone(name))  # type: ignore[misc]
    for name in _namespaces():
        # What the run was about to note when it was killed: the namespace is ours, so is this.
        _tolerant(lambda name=name: _empty(name))  # type: ignore[misc]
    for link in _links():
        run(["ip", "link", "del", link], check=False)
    for name in _namespaces():
        run(["ip", "netns", "del", name], check=False)
    left = [*_namespaces(), *_links(), *(name for name in names if started.pid(name) is not None)]
    if left:
        raise LabError(f"could not be removed: {', '.join(left)}; their logs are in {lab.log}")
    shutil.rmtree(lab.shared, ignore_errors=True)
    if lab.mark.exists():
        shutil.rmtree(lab.folder if lab.mark.read_text() == OURS else lab.pids, ignore_errors=True)


def _namespaces() -> list[str]:
    return (
        sorted(path.name for path in NAMESPACES.glob(f"{PREFIX}*")) if NAMESPACES.exists() else []
    )


def _links() -> list[str]:
    # Cables first: a bridge that goes takes none of them along.
    return sorted(path.name for path in LINKS.glob(f"{PREFIX}*")) + [
        BRIDGE for path in (LINKS / BRIDGE,) if path.exists()
    ]


def _inside(name: str) -> list[int]:
    found = [int(word) for word in run(["ip", "netns", "pids", name], check=False).split()]
    return [pid for pid in found if pid not in (1, os.getpid())]


def _empty(name: str) -> None:
    for pid in _inside(name):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                if pid in _inside(name):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
    wait_for(lambda: not _inside(name), f"processes in {name} to die", GONE_S)


def _tolerant(work: Callable[[], object]) -> None:
    """Removal goes on with the rest when one part resists."""
    with contextlib.suppress(LabError, NotSeenError, OSError):
        work()
