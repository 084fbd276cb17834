"""Process 1 of a node: lays out the node's own view of the machine, then keeps its three daemons.

Runs in new pid, mount, host name, IPC and cgroup namespaces, and in the node's network namespace.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.e2e.kube import cgroups
from tests.e2e.kube.settings import HOST, Lab, from_environment, node_address, node_name
from tests.e2e.kube.shell import run
from tests.e2e.lib.waits import wait_for

# kubelet insists on these kernel-wide settings. It is shown what it wants to see, instead of
# being let change the machine.
SYSCTLS: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# folder on the node's disk : where the node sees it
OWN: Final = {
    "kubelet": "/var/lib/kubelet",
    "containerd": "/var/lib/containerd",
    "cni": "/var/lib/cni",
    "cninet": "/etc/cni/net.d",
    "drystone": "/var/lib/drystone",
    "disks": "/var/lib/drystone-disks",
    "log/pods": "/var/log/pods",
    "log/containers": "/var/log/containers",
}
SOCKET: Final = Path("/run/containerd/containerd.sock")
CONTAINERD_S: Final = 60.0
RESTART_S: Final = 1.0  # a daemon that cannot start must not fill its log


def main() -> None:
    """Never returns: the node ends when this process is killed."""
    number = int(sys.argv[1])
    lab = from_environment()
    socket.sethostname(node_name(number))
    lay_out(lab, number)
    log = lab.node(number) / "log"
    daemons = commands(lab, number)
    running = {_spawn(daemons["containerd"], log / "containerd.log"): "containerd"}
    wait_for(SOCKET.exists, "containerd's socket", CONTAINERD_S)
    for name in ("kubelet", "kube-proxy"):
        running[_spawn(daemons[name], log / f"{name}.log")] = name
    while True:
        pid, _ = os.wait()  # orphans of the node, too: this is process 1
        name = running.pop(pid, "")
        if name:
            time.sleep(RESTART_S)
            running[_spawn(daemons[name], log / f"{name}.log")] = name


def commands(lab: Lab, number: int) -> dict[str, list[str]]:
    """Command lines of the daemons."""
    disk = lab.node(number)
    return {
        "containerd": ["containerd", "--config", str(disk / "containerd.toml")],
        "kubelet": [
            lab.program("kubelet"),
            f"--config={disk / 'kubelet.json'}",
            f"--kubeconfig={lab.pki / node_name(number)}.kubeconfig",
            f"--hostname-override={node_name(number)}",
            f"--node-ip={node_address(number)}",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
            f"--node-labels=topology.kubernetes.io/zone=zone-{number}",
        ],
        "kube-proxy": [lab.program("kube-proxy"), f"--config={disk / 'kube-proxy.json'}"],
    }


def lay_out(lab: Lab, number: int) -> None:
    """The node's own folders over those of the machine."""
    disk = lab.node(number)
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    _kernel_files()
    _mount("-t", "tmpfs", "-o", "mode=755", "run", "/run")
    for folder in ("/run/lock", "/run/netns"):
        Path(folder).mkdir()
    for name, target in OWN.items():
        (disk / name).mkdir(parents=True, exist_ok=True)
        _own_folder(lab, disk / name, Path(target))
    files = {
        "hosts": f"127.0.0.1 localhost {node_name(number)}\n",
        "resolv.conf": f"nameserver {HOST}\n",
    }
    for name, text in files.items():
        (disk / name).write_text(text)
        _mount("--bind", disk / name, Path("/etc", name).resolve())
    (disk / "sys").mkdir(exist_ok=True)
    for name, value in SYSCTLS.items():
        shown = disk / "sys" / name.replace("/", "_")
        shown.write_text(value + "\n")
        _mount("--bind", shown, Path("/proc/sys", name))
    # So that what a pod mounts with Bidirectional propagation reaches the node.
    _mount("--make-rshared", "/")


def _kernel_files() -> None:
    """/sys of the new network namespace, with the control groups that the node may see."""
    v1 = [] if cgroups.is_v2() else sorted(cgroups.hierarchies())
    run(["umount", "--lazy", "/sys"])
    _mount("-t", "sysfs", "sysfs", "/sys")
    if cgroups.is_v2() or not v1:
        _mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
        cgroups.settle_inside()
        return
    _mount("-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
    for name in v1:
        target = cgroups.ROOT / name
        target.mkdir()
        _mount(
            "-t", "cgroup", "-o", "none,name=systemd" if name == "systemd" else name, name, target
        )


def _own_folder(lab: Lab, source: Path, target: Path) -> None:
    if not target.is_dir():
        target.mkdir(parents=True)
        with (lab.folder / "folders.made").open("a") as made:
            made.write(f"{target}\n")
    _mount("--bind", source, target)


def _mount(*words: str | Path) -> None:
    run(["mount", *words])


def _spawn(argv: list[str], log: Path) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    # Reaped by main's os.wait; the object must not do it, and must not complain at its end.
    process.returncode = 0
    return process.pid


if __name__ == "__main__":
    main()
