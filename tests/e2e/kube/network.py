"""A bridge on the host, a network namespace and a cable to it for each node, no way off it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.e2e.kube.settings import BRIDGE, HOST, POD_NET, Lab, node_address
from tests.e2e.kube.shell import run

NAMESPACES: Final = Path("/run/netns")
CABLE: Final = re.compile(r"\b(dskube-\d)\b")
INOTIFY: Final = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_MIN: Final = 1024  # three kubelets and their pods use up the usual 128
SAVED: Final = "inotify.saved"


def namespace(number: int) -> str:
    """Name of a node's network namespace."""
    return f"dskube-node-{number}"


def cable(number: int) -> str:
    """The host's end of a node's cable."""
    return f"dskube-{number}"


def make(lab: Lab) -> None:
    """The host's side."""
    found = INOTIFY.read_text()
    (lab.folder / SAVED).write_text(found)
    if int(found) < INOTIFY_MIN:
        INOTIFY.write_text(str(INOTIFY_MIN))
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "add", f"{HOST}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    for number in lab.numbers():
        # One after the other, here: adding namespaces at the same time fails now and then.
        add(number)


def add(number: int) -> None:
    """The host's side of one node."""
    run(["ip", "netns", "add", namespace(number)])
    run(["ip", "route", "add", f"{POD_NET}.{number}.0/24", "via", node_address(number)])


def show(to: int, number: int) -> None:
    """Tell a node that runs the way to the pods of one that was added."""
    words = ["route", "replace", f"{POD_NET}.{number}.0/24", "via", node_address(number)]
    run(["ip", "-n", namespace(to), *words])


def unplug(lab: Lab, number: int) -> None:
    """Take one node's cable, namespace and ways away."""
    run(["ip", "link", "del", cable(number)], check=False)
    run(["ip", "netns", "del", namespace(number)], check=False)
    gone = f"{POD_NET}.{number}.0/24"
    run(["ip", "route", "del", gone], check=False)
    for other in lab.numbers():
        if other != number:
            run(["ip", "-n", namespace(other), "route", "del", gone], check=False)


def plug(lab: Lab, number: int) -> None:
    """A node's side; nothing that is there is made again."""
    if not (NAMESPACES / namespace(number)).exists():
        run(["ip", "netns", "add", namespace(number)])
    if not Path(f"/sys/class/net/{cable(number)}").exists():
        run(["ip", "link", "add", cable(number), "type", "veth", "peer", "name", "eth0",
             "netns", namespace(number)])  # fmt: skip
    run(["ip", "link", "set", cable(number), "master", BRIDGE, "up"])
    lines = [
        "link set lo up",
        f"addr replace {node_address(number)}/24 dev eth0",
        "link set eth0 up",
        f"route replace default via {HOST}",
        *(
            f"route replace {POD_NET}.{other}.0/24 via {node_address(other)}"
            for other in lab.numbers()
            if other != number
        ),
    ]
    run(["ip", "-n", namespace(number), "-batch", "-"], text="\n".join(lines) + "\n")
    for setting in ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"):
        # Without `ip netns exec`, which mounts /sys anew.
        run(["nsenter", f"--net={NAMESPACES / namespace(number)}", "sysctl", "-qw", setting],
            check=False)  # fmt: skip


def cut(number: int) -> None:
    """Pull a node's cable."""
    run(["ip", "link", "set", cable(number), "down"])


def join(number: int) -> None:
    """Put it back."""
    run(["ip", "link", "set", cable(number), "up"])


def remove(lab: Lab) -> None:
    """Take everything away; what is not there is fine."""
    for name in sorted(set(CABLE.findall(run(["ip", "-o", "link", "show", "type", "veth"])))):
        run(["ip", "link", "del", name], check=False)
    for path in sorted(NAMESPACES.glob("dskube-node-*")) if NAMESPACES.exists() else ():
        run(["ip", "netns", "del", path.name], check=False)
    run(["ip", "link", "del", BRIDGE], check=False)
    saved = lab.folder / SAVED
    if saved.exists():
        INOTIFY.write_text(saved.read_text())
        saved.unlink()
