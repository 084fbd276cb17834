"""Facts of a node to findings. Pure: every threshold stands here with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from drystone_cli.doctor.facts import ABSENT, AVAILABLE, FREE, LOADED, NodeFacts
from drystone_cli.doctor.findings import Finding, ok, problem, unknown, warning
from drystone_common.units import human_size

KERNEL_MIN: Final = (5, 19)  # io_uring with what the reactor uses
MEMORY_MIN: Final = 1 << 30
"""What a server starts with. Its index takes up to 1.6 GiB for each TiB of small random blocks."""

HUGEPAGES_SHARE_MAX: Final = 0.25  # reserved memory that nothing here can use


def check_node(facts: NodeFacts) -> list[Finding]:
    """Everything that a node's own facts tell."""
    return [finding for check in CHECKS for finding in check(facts)]


def kernel(facts: NodeFacts) -> Iterator[Finding]:
    """Version, and whether io_uring may be used."""
    if facts.kernel is None:
        return
    found = re.match(r"(\d+)\.(\d+)", facts.kernel)
    wanted = ".".join(map(str, KERNEL_MIN))
    if not found:
        yield unknown("kernel", f"cannot read the version {facts.kernel!a}", facts.node)
    elif (int(found[1]), int(found[2])) < KERNEL_MIN:
        todo = f"use a kernel of {wanted} or newer"
        yield problem("kernel", f"{facts.kernel} is too old", todo, facts.node)
    else:
        yield ok("kernel", facts.kernel, facts.node)
    if facts.io_uring is False:
        todo = "allow it: sysctl kernel.io_uring_disabled=0, and no seccomp profile that refuses it"
        yield problem("io_uring", "io_uring is refused", todo, facts.node)
    elif facts.io_uring:
        yield ok("io_uring", "io_uring works", facts.node)


def attaching(facts: NodeFacts) -> Iterator[Finding]:
    """Whether volumes can become devices here: nbd, else FUSE with loop devices."""
    nbd = facts.modules.get("nbd")
    if nbd == LOADED:
        yield ok("module nbd", "loaded", facts.node)
    elif nbd == AVAILABLE:
        todo = "modprobe nbd; echo nbd > /etc/modules-load.d/drystone.conf; then restart `block`"
        yield warning("module nbd", "installed, not loaded: slower FUSE is used", todo, facts.node)
    elif nbd == ABSENT:
        todo = "install the kernel's extra modules if volumes must be fast"
        yield warning("module nbd", "this kernel has none: slower FUSE is used", todo, facts.node)
    elif "nbd" in facts.modules:
        text = "not loaded; whether this kernel has it is not to be seen from here"
        yield unknown("module nbd", text, facts.node)
    yield from _fuse(facts, needed=nbd != LOADED)
    ublk = facts.modules.get("ublk_drv")
    if ublk is not None:
        yield ok("module ublk", f"{ublk}; this version does not use it", facts.node)


def _fuse(facts: NodeFacts, *, needed: bool) -> Iterator[Finding]:
    devices = {"fuse": facts.fuse_device, "loop": facts.loop_control}
    for name, there in devices.items():
        state = facts.modules.get(name)
        check = f"module {name}"
        if there or state == LOADED:
            yield ok(check, "loaded", facts.node)
        elif there is None and state is None:
            continue
        elif needed:
            todo = f"modprobe {name}, or load nbd: one of the two ways is needed"
            text = f"{state or 'not loaded'}: volumes cannot be attached"
            yield problem(check, text, todo, facts.node)
        else:
            yield ok(check, f"{state or 'not loaded'}; not needed beside nbd", facts.node)


def cgroup(facts: NodeFacts) -> Iterator[Finding]:
    """Version 2."""
    if facts.cgroup == 1:
        todo = "boot with systemd.unified_cgroup_hierarchy=1"
        text = "cgroup v1: newer versions of Kubernetes do not start on it"
        yield warning("cgroup", text, todo, facts.node)
    elif facts.cgroup:
        yield ok("cgroup", "cgroup v2", facts.node)


def memory(facts: NodeFacts) -> Iterator[Finding]:
    """Enough for the index of drives, and for the page cache of those who use volumes."""
    if facts.memory_available is not None:
        text = f"{human_size(facts.memory_available)} available"
        if facts.memory_available < MEMORY_MIN:
            todo = f"free or add memory: a server wants {human_size(MEMORY_MIN)}, and up to 1.6 GiB"
            todo += " for each TiB of small random blocks"
            yield warning("memory", text, todo, facts.node)
        else:
            yield ok("memory", text, facts.node)
    if facts.hugepages and facts.memory_total:
        text = f"{human_size(facts.hugepages)} reserved as huge pages, which Drystone does not use"
        if facts.hugepages > HUGEPAGES_SHARE_MAX * facts.memory_total:
            todo = "lower vm.nr_hugepages unless something else here needs them"
            yield warning("hugepages", text, todo, facts.node)
        else:
            yield ok("hugepages", text, facts.node)


def mounts(facts: NodeFacts) -> Iterator[Finding]:
    """Whether what the CSI plugin mounts is seen by kubelet and pods."""
    if facts.kubelet_shared is None:
        return
    if facts.kubelet_shared:
        yield ok("mount propagation", f"{facts.kubelet_dir} is shared", facts.node)
    else:
        todo = (
            "mount --make-rshared / (systemd does it at boot; in a container runtime use rshared)"
        )
        text = f"mounts below {facts.kubelet_dir} do not reach other pods"
        yield problem("mount propagation", text, todo, facts.node)


def ports(facts: NodeFacts) -> Iterator[Finding]:
    """Whether the ports that we listen at are free, or ours."""
    if not facts.ports:
        return
    foreign = {port: who for port, who in facts.ports.items() if not _ours(who)}
    for port, who in sorted(foreign.items()):
        if who == "?":
            todo = "see `ss -lntup` as root; if it is not Drystone, move it or our ports"
            yield warning("ports", f"{port} is in use", todo, facts.node)
        else:
            todo = "move it, or set other ports (spec.network.ports, or the settings)"
            yield problem("ports", f"{port} is in use by {who}", todo, facts.node)
    if not foreign:
        yield ok("ports", f"{len(facts.ports)} ports are free or ours", facts.node)


def _ours(who: str) -> bool:
    return who == FREE or "drystone" in who


def clock(facts: NodeFacts) -> Iterator[Finding]:
    """Whether something sets the clock."""
    if facts.clock_synchronized is False:
        todo = "run chrony or systemd-timesyncd: stamps in logs and certificates count by it"
        yield warning("clock", "the clock is not synchronized", todo, facts.node)
    elif facts.clock_synchronized:
        yield ok("clock", "synchronized", facts.node)


def network(facts: NodeFacts) -> Iterator[Finding]:
    """What was seen of other nodes and of names."""
    for address, seen in sorted(facts.peers.items()):
        whole = seen.get("whole")
        if whole is False:
            todo = f"set the same MTU on every switch and interface, or lower it: {facts.mtu}"
            text = f"packets of {facts.mtu} bytes do not reach {address}, small ones do"
            yield problem("path MTU", text, todo, facts.node)
        elif whole:
            yield ok("path MTU", f"{facts.mtu} bytes reach {address}", facts.node)
        reached: dict[str, bool] = seen.get("ports") or {}
        closed = sorted(port for port, there in reached.items() if not there)
        if closed:
            todo = "open them between nodes: firewall, security groups, network policies"
            text = f"{address} does not answer at {', '.join(closed)}"
            yield problem("reachable", text, todo, facts.node)
        elif reached:
            yield ok("reachable", f"{address} at {', '.join(sorted(reached))}", facts.node)
    for name, there in sorted(facts.names.items()):
        if there:
            yield ok("DNS", f"{name} is found", facts.node)
        else:
            todo = "see the pods of kube-system with k8s-app=kube-dns, and /etc/resolv.conf"
            yield problem("DNS", f"{name} is not found", todo, facts.node)


def rights(facts: NodeFacts) -> Iterator[Finding]:
    """Whether enough could be seen."""
    if facts.root is False:
        yield unknown("rights", "not root: some checks are left out", facts.node)


CHECKS: Final[tuple[Callable[[NodeFacts], Iterator[Finding]], ...]] = (
    rights, kernel, attaching, cgroup, memory, mounts, ports, clock, network,
)  # fmt: skip
