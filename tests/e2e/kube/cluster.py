"""The whole lab: up, down, and what is there. `down` also ends what an `up` left half done."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.e2e.kube import cgroups, control, images, loops, network, node, pki, seed, tools
from tests.e2e.kube.kubectl import Kubectl, node_ready
from tests.e2e.kube.settings import NODES_FILE, Lab, LabError, node_name
from tests.e2e.kube.shell import Steps, need, run
from tests.e2e.lib.waits import NotSeenError

READY_S: Final = 120.0
FREE_BYTES_MIN: Final = 4 << 30  # images are unpacked once per node, and kubelet evicts below 1 %


def up(lab: Lab, steps: Steps) -> None:
    """Start everything; nothing is left behind if that fails."""
    need_root()
    if is_up(lab):
        steps.say(f"the lab is up already: {lab.folder}")
        return
    down(lab, steps)  # what a killed run left
    tools.install(lab, steps)
    need("containerd", "runc", "nft", "ip", "openssl", "nsenter", "unshare", "losetup")
    try:
        _up(lab, steps)
    except BaseException:
        steps.say("did not come up: taking it down")
        down(lab, steps)
        raise


def _up(lab: Lab, steps: Steps) -> None:
    unpacked = seed.make(lab, images.archives(lab))
    lab.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(lab.folder).free
    if free < FREE_BYTES_MIN:
        raise LabError(
            f"{free >> 20} MiB are free below {lab.folder}, {FREE_BYTES_MIN >> 20} needed"
        )
    tell(lab)
    pki.make_all(lab)
    cgroups.begin(lab)
    network.make(lab)
    control.start_first(lab)
    for number in lab.numbers():
        seed.plant(unpacked, lab.node(number) / "containerd")
        node.start(lab, number)
    steps.say("processes started")
    each_node(lab, lambda number: node.wait_running(lab, number))
    control.wait_api(lab)
    steps.say("API ready")
    control.start_second(lab)
    kubectl = Kubectl(lab)
    for number in lab.numbers():
        kubectl.wait("node", node_name(number), node_ready, "Ready", deadline_s=READY_S)
    kubectl.wait("serviceaccount", "default", lambda _: True, "made", deadline_s=READY_S)
    (lab.folder / "up").touch()
    steps.say(f"{lab.node_count} nodes Ready; export KUBECONFIG={lab.kubeconfig}")


def tell(lab: Lab) -> None:
    """Note how many nodes there are, for every later run of the program."""
    (lab.folder / NODES_FILE).write_text(str(lab.node_count))


def known(lab: Lab) -> Lab:
    """The lab with as many nodes as were noted: one may have joined since it was started."""
    with contextlib.suppress(OSError, ValueError):
        return replace(lab, node_count=int((lab.folder / NODES_FILE).read_text()))
    return lab


def is_up(lab: Lab) -> bool:
    """Whether it came up, and its control plane still runs."""
    alive = node.started(lab).pid("kube-apiserver") is not None
    return alive and (lab.folder / "up").exists()


def down(lab: Lab, steps: Steps) -> None:
    """End and remove everything that `up` made; nothing there is fine."""
    if not lab.folder.exists():
        return
    need_root()
    processes = node.started(lab)
    names = processes.names()
    if not names and not (lab.folder / NODES_FILE).exists():
        return
    lab = known(lab)
    _tolerant(lambda: each_node(lab, lambda number: node.kill(lab, number)))
    for name in names:
        processes.kill(name)
    for name in names:
        _tolerant(lambda name=name: processes.wait_gone(name))  # type: ignore[misc]
    for number in lab.numbers():
        loops.detach(lab.node(number))
    network.remove(lab)
    cgroups.remove_roots(lab)
    _remove_folders(lab)
    _unmount_below(lab.folder)
    shutil.rmtree(lab.folder, ignore_errors=True)
    steps.say("down")


def load(lab: Lab, archive: Path, steps: Steps) -> None:
    """Import an image into every running node."""
    need_up(lab)
    if not archive.exists():
        raise LabError(f"{archive} does not exist: 'make image' builds it")
    running = node.started(lab)
    numbers = [n for n in lab.numbers() if running.pid(node_name(n)) is not None]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda number: node.load(lab, number, archive), numbers))
    steps.say(f"{archive.name} is in {len(numbers)} nodes")


def each_node(lab: Lab, work: Callable[[int], None]) -> None:
    """Do something for all nodes at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, lab.numbers()))


def need_root() -> None:
    """Namespaces, mounts and devices are root's."""
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces and mounts: run it as root")


def need_up(lab: Lab) -> None:
    """Refuse where there is no lab."""
    if not is_up(lab):
        raise LabError("the lab is not up: 'make kube-up' starts it")


def _unmount_below(folder: Path) -> None:
    """Mounts of the nodes are theirs alone; should one be seen here, it must not be emptied."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split()[4] for line in lines]
    for target in sorted((t for t in targets if t.startswith(f"{folder}/")), reverse=True):
        run(["umount", "--lazy", target])


def _remove_folders(lab: Lab) -> None:
    """Mount points on the machine that exist only for the nodes, deepest first."""
    made = lab.folder / "folders.made"
    if made.exists():
        for folder in sorted(set(made.read_text().split()), reverse=True):
            with contextlib.suppress(OSError):
                os.removedirs(folder)


def _tolerant(work: Callable[[], None]) -> None:
    """Removal goes on with the rest when one part resists."""
    with contextlib.suppress(LabError, NotSeenError, OSError):
        work()
