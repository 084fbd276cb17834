"""Every kind of volume: ext4, xfs, raw block, grown online, many at once; bad wishes refused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.e2e.kube import manifests
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import LabError, node_name
from tests.e2e.kube.usage import running
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 180.0
POLL_S: Final = 0.2  # finer than what is measured: seconds
MANY: Final = 30
ALONE: Final = 10
XFS: Final = "drystone-xfs"
AT_ONCE: Final = "drystone-at-once"
MISSPELT: Final = "drystone-misspelt"
CAP_SYS_RESOURCE: Final = 24
BLOCK_CHECK: Final = (
    "head -c 8M /dev/urandom > /tmp/a && dd if=/tmp/a of=/dev/xvda bs=1M oflag=direct conv=fsync"
    " status=none && dd if=/dev/xvda bs=1M count=8 iflag=direct status=none | cmp - /tmp/a"
)


def kinds(run: Run) -> None:
    """A volume of every kind is written and read; those that can be are grown under a pod."""
    run.kubectl.apply(classes())
    for fs, storage_class in (("ext4", manifests.STORAGE_CLASS), ("xfs", XFS)):
        _use_file_system(run, fs, storage_class)
    run.kubectl.apply([manifests.claim("raw", "1Gi", block=True), block_pod("raw")])
    run.kubectl.wait("pod", "raw", running, "to run", deadline_s=WAIT_S)
    run.kubectl.execute("raw", "sh", "-c", BLOCK_CHECK)
    _remove(run.kubectl, ["raw"])
    run.steps.say("a raw block volume keeps what is written")


def refusals(run: Run) -> None:
    """What cannot be is said where the user looks."""
    kubectl = run.kubectl
    kubectl.apply([manifests.claim("typo", "1Gi", storage_class=MISSPELT)])
    _wait_event(kubectl, "typo", "iops")
    kubectl.apply([manifests.claim("huge", "64Pi", storage_class=AT_ONCE)])
    _wait_event(kubectl, "huge", "")
    kubectl.apply([manifests.claim("large", "1Ti"), manifests.user("large", "large", node_name(1))])
    _wait_event(kubectl, "large", "enough free storage")
    _remove(kubectl, ["typo", "huge", "large"])
    run.steps.say("an unknown parameter, a size that cannot be and one with no room: told, refused")


def alone(run: Run) -> None:
    """One claim with its pod after the other, from `apply` to Bound and to Running."""
    bound, up = [], []
    for number in range(ALONE):
        times = _make(run, [f"one-{number}"])
        bound.append(times[f"one-{number}"][0])
        up.append(times[f"one-{number}"][1])
        _remove(run.kubectl, [f"one-{number}"])
    run.figures.spread("claim to Bound, one at a time", bound, "2 s")
    run.figures.spread("pod with a new volume Running, one at a time", up, "10 s")
    run.steps.say(f"{ALONE} claims and pods one after the other: the last ran after {up[-1]:.1f} s")


def many(run: Run) -> None:
    """The same, all at once."""
    names = [f"many-{number}" for number in range(MANY)]
    times = _make(run, names)
    run.figures.spread(f"claim to Bound, {MANY} at once", [t[0] for t in times.values()])
    run.figures.spread(f"pod Running, {MANY} at once", [t[1] for t in times.values()])
    run.steps.say(f"{MANY} pods with new volumes run")
    _remove(run.kubectl, names)
    run.steps.say(f"{MANY} volumes removed")


def classes() -> list[dict[str, Any]]:
    """StorageClasses beside the chart's."""
    return [
        _class(XFS, {"csi.storage.k8s.io/fstype": "xfs"}),
        _class(AT_ONCE, {}, binding="Immediate"),
        _class(MISSPELT, {"iops": "100"}, binding="Immediate"),
    ]


def _class(
    name: str, parameters: Mapping[str, str], binding: str = "WaitForFirstConsumer"
) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": manifests.DRIVER,
        "allowVolumeExpansion": True,
        "volumeBindingMode": binding,
        "parameters": dict(parameters),
    }


def block_pod(name: str) -> dict[str, Any]:
    """A pod that has its volume as a device."""
    pod = manifests.user(name, name, node_name(1))
    container = pod["spec"]["containers"][0]
    container["volumeDevices"] = [{"name": "data", "devicePath": "/dev/xvda"}]
    del container["volumeMounts"]
    return pod


def _use_file_system(run: Run, fs: str, storage_class: str) -> None:
    kubectl = run.kubectl
    kubectl.apply([
        manifests.claim(fs, "1Gi", storage_class=storage_class),
        manifests.user(fs, fs, node_name(2)),
    ])  # fmt: skip
    kubectl.wait("pod", fs, running, "to run", deadline_s=WAIT_S)
    found = kubectl.execute(fs, "stat", "-f", "-c", "%T", "/data").strip()
    if found != {"ext4": "ext2/ext3"}.get(fs, fs):
        raise LabError(f"the volume has {found}, not {fs}")
    kubectl.execute(fs, "sh", "-c", "echo kept > /data/file && sync")
    if fs == "ext4" and not _may_grow_ext4():
        run.steps.say("ext4: written; not grown, root lacks CAP_SYS_RESOURCE on this machine")
    else:
        before = _bytes(kubectl, fs)
        patch = '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}'
        kubectl.run("patch", "pvc", fs, "--type=merge", "-p", patch)
        wait_for(lambda: _bytes(kubectl, fs) > before * 1.8, f"{fs} to grow", WAIT_S, 1.0)
        kubectl.wait("pvc", fs, _has_2gi, "to have 2Gi", deadline_s=WAIT_S)
        run.steps.say(f"{fs}: written, and grown from 1 to 2 GiB under the pod")
    if kubectl.execute(fs, "cat", "/data/file").strip() != "kept":
        raise LabError(f"{fs}: the file is not what it was")
    _remove(kubectl, [fs])


def _has_2gi(claim: Mapping[str, Any]) -> bool:
    return bool(claim["status"].get("capacity", {}).get("storage") == "2Gi")


def _bytes(kubectl: Kubectl, pod: str) -> int:
    return int(kubectl.execute(pod, "df", "--output=size", "-B1", "/data").split()[-1])


def _may_grow_ext4() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff"))
    return bool(int(effective, 16) >> CAP_SYS_RESOURCE & 1)


def _make(run: Run, names: list[str]) -> dict[str, tuple[float, float]]:
    """Apply claims and pods; seconds until each is Bound and Running."""
    nodes = [node_name(number) for number in run.lab.numbers()]
    objects = []
    for index, name in enumerate(names):
        objects.append(manifests.claim(name, "64Mi", storage_class=AT_ONCE))
        objects.append(manifests.user(name, name, nodes[index % len(nodes)]))
    began = time.monotonic()
    run.kubectl.apply(objects)
    bound: dict[str, float] = {}
    up: dict[str, float] = {}

    def look() -> bool:
        now = time.monotonic() - began
        for claim in run.kubectl.items("pvc", "default"):
            if claim["status"]["phase"] == "Bound":
                bound.setdefault(claim["metadata"]["name"], now)
        for pod in run.kubectl.items("pod", "default"):
            if running(pod):
                up.setdefault(pod["metadata"]["name"], now)
        return all(name in up for name in names)

    wait_for(look, f"{len(names)} pods to run", WAIT_S, POLL_S)
    return {name: (bound[name], up[name]) for name in names}


def _wait_event(kubectl: Kubectl, name: str, words: str) -> None:
    def look() -> bool:
        found = kubectl.items("event", "default")
        return any(
            e["involvedObject"]["name"] == name and e["type"] == "Warning" and words in e["message"]
            for e in found
        )

    wait_for(look, f"an event about {name} that says {words!r}", WAIT_S, 0.5)


def _remove(kubectl: Kubectl, names: list[str]) -> None:
    kubectl.run("delete", "pod", *names, "--ignore-not-found", "--wait=false")
    kubectl.run("delete", "pvc", *names, "--ignore-not-found", "--wait=false")
    for kind in ("pod", "pvc"):
        gone = set(names)
        wait_for(lambda kind=kind, gone=gone: not gone & _names(kubectl, kind),  # type: ignore[misc]
                 f"{kind}s to be gone", WAIT_S, POLL_S)  # fmt: skip


def _names(kubectl: Kubectl, kind: str) -> set[str]:
    return {found["metadata"]["name"] for found in kubectl.items(kind, "default")}
