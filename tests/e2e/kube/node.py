"""A node from outside: power on, power cut, hang, unplug, look inside."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.e2e.kube import cgroups, images, loops, network
from tests.e2e.kube.settings import (
    DOMAIN,
    HOST,
    POD_NET,
    Lab,
    LabError,
    node_address,
    node_name,
)
from tests.e2e.kube.shell import Started, run
from tests.e2e.lib.procs import children
from tests.e2e.lib.waits import wait_for

ROOT: Final = Path(__file__).resolve().parents[3]
START: Final = "tests.e2e.kube.node_start"
CONTAINERD_S: Final = 60.0
IMPORT_S: Final = 180.0
NAMESPACES: Final = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")

CONTAINERD: Final = f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.name("pause")}"
  # Where root may not lower it, every pod would fail.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
"""


def started(lab: Lab) -> Started:
    """Every process that the lab remembers."""
    return Started(lab.folder / "pids")


def start(lab: Lab, number: int) -> None:
    """Power on. Its disk is what it was."""
    name = node_name(number)
    if started(lab).pid(name) is not None:
        raise LabError(f"{name} is running")
    disk = lab.node(number)
    for folder in ("kubelet", "containerd", "cni", "cninet", "log"):
        (disk / folder).mkdir(parents=True, exist_ok=True)
    cgroups.make(lab, number)
    network.plug(lab, number)
    _configure(lab, number)
    argv = [sys.executable, "-m", START, str(number)]
    started(lab).start(name, argv, disk / "log" / "init.log", cwd=ROOT)


def become(lab: Lab, number: int) -> None:
    """Turn this process into one in the node's control groups and their namespace."""
    cgroups.enter(lab, number)
    _exec("unshare", "--cgroup", sys.executable, "-m", START, str(number), "--inside")


def become_inside(lab: Lab, number: int) -> None:
    """Turn this process into the one that holds the node's namespaces; process 1 is its child."""
    cgroups.step_aside(lab)
    net = network.NAMESPACES / network.namespace(number)
    _exec(
        "nsenter", f"--net={net}", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork",
        "--kill-child", sys.executable, "-m", "tests.e2e.kube.node_init", str(number),
    )  # fmt: skip


def _exec(*argv: str) -> None:
    os.execvp(argv[0], argv)  # noqa: S606 - a fixed program


def wait_running(lab: Lab, number: int) -> None:
    """Wait until its containerd answers."""

    def answers() -> bool:
        if started(lab).pid(node_name(number)) is None:
            log = lab.node(number) / "log" / "init.log"
            raise LabError(f"{node_name(number)} did not come up: {log.read_text()[-1500:]}")
        with contextlib.suppress(LabError):
            inside(lab, number, ["ctr", "version"])
            return True
        return False

    wait_for(answers, f"containerd of {node_name(number)}", CONTAINERD_S)


def load(lab: Lab, number: int, archive: Path) -> None:
    """Import an image."""
    argv = ["ctr", "--namespace", "k8s.io", "images", "import", str(archive.absolute())]
    inside(lab, number, argv, timeout_s=IMPORT_S)


def kill(lab: Lab, number: int) -> None:
    """Power cut: every process is gone at once, and mounts and devices with them."""
    name = node_name(number)
    all_started = started(lab)
    all_started.kill(name)
    with contextlib.suppress(LabError, OSError):
        cgroups.freeze(lab, number, frozen=False)  # the frozen do not die
    all_started.wait_gone(name)
    cgroups.remove(lab, number)
    loops.detach(lab.node(number))


def inside(
    lab: Lab, number: int, argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = True
) -> str:
    """Run a program in the node; gives its output."""
    return run([*_nsenter(lab, number), *argv], timeout_s=timeout_s, check=check)


def enter(lab: Lab, number: int, argv: Sequence[str]) -> None:
    """Become a program in the node, with this terminal."""
    words = [*_nsenter(lab, number), *(argv or ["bash"])]
    os.execvp(words[0], words)  # noqa: S606 - what the user asked for


def _nsenter(lab: Lab, number: int) -> list[str]:
    outer = started(lab).pid(node_name(number))
    inner = children(outer) if outer is not None else []
    if not inner:
        raise LabError(f"{node_name(number)} is not running")
    return ["nsenter", f"--target={inner[0]}", *NAMESPACES, "--"]


def _configure(lab: Lab, number: int) -> None:
    disk = lab.node(number)
    (disk / "containerd.toml").write_text(CONTAINERD)
    (disk / "kubelet.json").write_text(json.dumps(_kubelet(lab, number), indent=1))
    (disk / "kube-proxy.json").write_text(json.dumps(_proxy(lab, number), indent=1))
    (disk / "cninet" / "10-lab.conflist").write_text(json.dumps(_pod_network(number), indent=1))


def _kubelet(lab: Lab, number: int) -> dict[str, Any]:
    name = node_name(number)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node_address(number),
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True, "cacheTTL": "2s"},
            "x509": {"clientCAFile": str(lab.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(lab.pki / f"{name}.crt"),
        "tlsPrivateKeyFile": str(lab.pki / f"{name}.key"),
        "clusterDomain": DOMAIN,
        "clusterDNS": [HOST],
        # A dead node is noticed within seconds, and a grown volume is looked at soon.
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 4,
        "syncFrequency": "5s",
        # All nodes share the machine's disk; none may throw away what the tests brought.
        "imageMinimumGCAge": "24h",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "serializeImagePulls": False,
    }


def _proxy(lab: Lab, number: int) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node_name(number),
        "clusterCIDR": f"{POD_NET}.0.0/16",
        "clientConnection": {"kubeconfig": str(lab.pki / "kube-proxy.kubeconfig")},
        # These limits belong to the machine; a network namespace may not change them.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "nodePortAddresses": ["primary"],
    }


def _pod_network(number: int) -> dict[str, Any]:
    return {
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": f"{POD_NET}.{number}.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
