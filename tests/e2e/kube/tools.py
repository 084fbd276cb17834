"""The programs of the lab: Debian packages, and Go modules built into the cache, once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.kube.settings import Lab, LabError
from tests.e2e.kube.shell import Steps, run

KUBERNETES: Final = "v1.34.4"
ETCD: Final = "v3.6.11"
HELM: Final = "v3.21.4"
HELM_4: Final = "v4.3.1"  # the chart is tested with both
PROVISIONER: Final = "v6.3.0"
ATTACHER: Final = "v4.12.0"
RESIZER: Final = "v2.2.0"
SNAPSHOTTER: Final = "v8.6.0"
GO_MIN: Final = (1, 24)

BUILD_S: Final = 4 * 3600.0  # ten minutes on two idle CPUs; at lowest priority, whatever it takes
DOWNLOAD_S: Final = 900.0
OWN: Final = Path(__file__).parent / "sidecars"
OWN_STAMP: Final = ".own"
OWN_PROGRAMS: Final = ("pause", "csi-node-driver-registrar", "livenessprobe", "lab-dns")

CSI: Final = "github.com/kubernetes-csi"
VERSION: Final = "k8s.io/component-base/version"

# program or path : Debian package that has it
PACKAGES: Final = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "losetup": "mount",
    "mmdebstrap": "mmdebstrap",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Programs built in one module, so that what they share is compiled once."""

    name: str
    packages: tuple[str, ...]
    requires: tuple[str, ...]
    ldflags: str = ""

    def programs(self) -> dict[str, str]:
        """Package to the name of its program."""
        return {package: program_name(package) for package in self.packages}


def program_name(package: str) -> str:
    """Name of the program that a package becomes here."""
    special = {
        "go.etcd.io/etcd/server/v3": "etcd",
        "go.etcd.io/etcd/etcdctl/v3": "etcdctl",
        "helm.sh/helm/v4/cmd/helm": "helm4",
    }
    return special.get(package) or package.rpartition("/")[2]


def groups() -> tuple[Group, ...]:
    """What is built; versions are part of it, so that a change of one builds its group again."""
    minor = KUBERNETES.removeprefix("v1.").partition(".")[0]
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy",
             "kubelet", "kubectl")  # fmt: skip
    return (
        Group(
            "kubernetes",
            tuple(f"k8s.io/kubernetes/cmd/{name}" for name in names),
            (f"k8s.io/kubernetes@{KUBERNETES}",),
            f"-X {VERSION}.gitVersion={KUBERNETES} -X {VERSION}.gitMajor=1"
            f" -X {VERSION}.gitMinor={minor}",
        ),
        Group(
            "csi",
            (
                f"{CSI}/external-provisioner/v6/cmd/csi-provisioner",
                f"{CSI}/external-attacher/v4/cmd/csi-attacher",
                f"{CSI}/external-resizer/v2/cmd/csi-resizer",
                f"{CSI}/external-snapshotter/v8/cmd/csi-snapshotter",
                f"{CSI}/external-snapshotter/v8/cmd/snapshot-controller",
            ),
            (
                f"{CSI}/external-provisioner/v6@{PROVISIONER}",
                f"{CSI}/external-attacher/v4@{ATTACHER}",
                f"{CSI}/external-resizer/v2@{RESIZER}",
                f"{CSI}/external-snapshotter/v8@{SNAPSHOTTER}",
                f"{CSI}/external-snapshotter/client/v8@{SNAPSHOTTER}",
            ),
        ),
        Group(
            "etcd",
            ("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"),
            (f"go.etcd.io/etcd/server/v3@{ETCD}", f"go.etcd.io/etcd/etcdctl/v3@{ETCD}"),
        ),
        Group("helm", ("helm.sh/helm/v3/cmd/helm",), (f"helm.sh/helm/v3@{HELM}",)),
        Group("helm4", ("helm.sh/helm/v4/cmd/helm",), (f"helm.sh/helm/v4@{HELM_4}",)),
    )


def install(lab: Lab, steps: Steps) -> None:
    """Install and build what is missing; quick when nothing is."""
    debian_packages(steps)
    lab.bin.mkdir(parents=True, exist_ok=True)
    waiting = [group for group in groups() if not is_built(lab, group)]
    own = not _own_built(lab)
    if waiting or own:
        _need_go()
    for group in waiting:
        steps.say(f"building {', '.join(group.programs().values())} (minutes, once)")
        build(lab, group)
    if own:
        steps.say(f"building {', '.join(OWN_PROGRAMS)}")
        run([*_go(lab), "build", "-trimpath", "-ldflags=-s -w", "-o", f"{lab.bin}/", "./..."],
            cwd=OWN, env=_env(lab), timeout_s=BUILD_S)  # fmt: skip
        (lab.bin / OWN_STAMP).write_text(_own_digest())
    snapshot_definitions(lab)
    # Gigabytes that only a change of version would use again.
    shutil.rmtree(lab.cache / "gocache", ignore_errors=True)


def _own_built(lab: Lab) -> bool:
    """Whether the lab's own little programs are there, of this very source: a clone's is new."""
    if not all((lab.bin / name).exists() for name in OWN_PROGRAMS):
        return False
    stamp = lab.bin / OWN_STAMP
    return stamp.exists() and stamp.read_text() == _own_digest()


def _own_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in OWN.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(OWN)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def debian_packages(steps: Steps) -> None:
    """Install the Debian packages that are missing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = sorted(
        {deb for name, deb in PACKAGES.items() if shutil.which(name, path=path) is None}
    )
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise LabError(f"not a Debian system; install the equivalents of: {', '.join(missing)}")
    steps.say(f"installing {', '.join(missing)}")
    policy = Path("/usr/sbin/policy-rc.d")
    own = not policy.exists()
    try:
        if own:  # a package must not start containerd as a service of this machine
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], timeout_s=DOWNLOAD_S, env=env)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing],
            timeout_s=DOWNLOAD_S, env=env)  # fmt: skip
    finally:
        if own:
            policy.unlink(missing_ok=True)


def is_built(lab: Lab, group: Group) -> bool:
    """Whether every program is there, at these versions."""
    try:
        stamp = (lab.bin / f".{group.name}").read_text()
    except FileNotFoundError:
        return False
    there = all((lab.bin / name).exists() for name in group.programs().values())
    return there and stamp == _stamp(group)


def build(lab: Lab, group: Group) -> None:
    """Build a group in a module made for it."""
    lab.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=lab.cache, prefix=f"build-{group.name}-") as text:
        folder = Path(text)
        edits = [f"-require={require}" for require in group.requires]
        edits += [f"-replace={old}={new}" for old, new in staging(lab, group)]

        def go(*words: str, check: bool = True, timeout_s: float = DOWNLOAD_S) -> str:
            return run([*_go(lab), *words], cwd=folder, env=_env(lab), check=check,
                       timeout_s=timeout_s)  # fmt: skip

        go("mod", "init", f"drystone.test/{group.name}")
        go("mod", "edit", *edits)
        imports = "\n".join(f'\t_ "{package}"' for package in group.packages)
        (folder / "tools.go").write_text(
            f"//go:build tools\n\npackage tools\n\nimport (\n{imports}\n)\n"
        )
        # Complains about packages that only tests of others import.
        go("mod", "tidy", "-e", check=False)
        (folder / "out").mkdir()
        go("build", "-trimpath", f"-ldflags=-s -w {group.ldflags}", "-o", "out/", *group.packages,
           timeout_s=BUILD_S)  # fmt: skip
        for package, name in group.programs().items():
            shutil.move(folder / "out" / go_name(package), lab.bin / name)
    (lab.bin / f".{group.name}").write_text(_stamp(group))


def go_name(package: str) -> str:
    """Name that Go gives to a program: the last part of its path that is no major version."""
    parts = package.split("/")
    return parts[-2] if parts[-1][:1] == "v" and parts[-1][1:].isdecimal() else parts[-1]


def staging(lab: Lab, group: Group) -> Iterable[tuple[str, str]]:
    """Modules that the archive of k8s.io/kubernetes leaves out, and their published twins."""
    if group.name != "kubernetes":
        return
    mod = source(lab, group.requires[0]) / "go.mod"
    data = json.loads(run([*_go(lab), "mod", "edit", "-json", mod], env=_env(lab)))
    names = {r["Path"] for r in data["Require"] if r["Version"] == "v0.0.0"}
    names |= {r["Old"]["Path"] for r in data.get("Replace") or () if "staging/" in r["New"]["Path"]}
    for name in sorted(names):
        yield name, f"{name}@v0.{KUBERNETES.removeprefix('v1.')}"


def snapshot_definitions(lab: Lab) -> None:
    """The kinds that the snapshot controller serves."""
    target = lab.cache / "crd" / SNAPSHOTTER
    if not target.exists():
        found = (
            source(lab, f"{CSI}/external-snapshotter/client/v8@{SNAPSHOTTER}") / "config" / "crd"
        )
        target.mkdir(parents=True)
        for path in found.glob("*.yaml"):
            shutil.copyfile(path, target / path.name)


def source(lab: Lab, module: str) -> Path:
    """Folder of a module's source."""
    words = [*_go(lab), "mod", "download", "-json", module]
    return Path(json.loads(run(words, env=_env(lab), timeout_s=DOWNLOAD_S, cwd=lab.cache))["Dir"])


def _stamp(group: Group) -> str:
    return json.dumps([group.packages, group.requires, group.ldflags])


def _go(lab: Lab) -> list[str]:
    # Whoever builds for minutes is polite to whoever works on the machine.
    return ["nice", "-n", "19", "go"]


def _env(lab: Lab) -> dict[str, str]:
    return {"CGO_ENABLED": "0", "GOCACHE": str(lab.cache / "gocache"), "GOWORK": "off"}


def _need_go() -> None:
    hint = f"Go {GO_MIN[0]}.{GO_MIN[1]} or newer is needed, once (https://go.dev/dl/)"
    if shutil.which("go") is None:
        raise LabError(f"go is not installed: {hint}")
    text = run(["go", "env", "GOVERSION"]).strip().removeprefix("go")
    parts = text.split(".")
    if tuple(int(part) for part in parts[:2] if part.isdecimal()) < GO_MIN:
        raise LabError(f"go is version {text}: {hint}")
