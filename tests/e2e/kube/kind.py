"""`make kube-e2e KIND=1`: chart and scenarios in a Kubernetes that kind makes, as a user has it.

The chart's own defaults: upstream's sidecars and etcd come from their registries. What needs the
power switch of a node stays with the lab.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.e2e.kube import chart, evidence, operated
from tests.e2e.kube.chart import CLUSTER, NAMESPACE
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.plain import archive
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import Lab, LabError, node_name
from tests.e2e.kube.shell import Steps
from tests.e2e.kube.shell import run as run_program
from tests.e2e.lib.waits import NotSeenError

NAME: Final = "drystone-e2e"  # never the user's own "kind"
NEEDED: Final = {
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "docker": "https://docs.docker.com/engine/install/",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "helm": "https://helm.sh/docs/intro/install/",
}
SCENARIOS: Final = (
    "basics",
    "kinds",
    "refusals",
    "alone",
    "many",
    "idle",
    "restarts",
    "rolling-update",
    "drains",
)
STORAGE: Final = "drystone.io/storage"
CREATE_S: Final = 900.0  # the first time fetches an image of 1 GB
READY_S: Final = 900.0  # images of sidecars and etcd, once per node
SYS_BLOCK: Final = Path("/sys/block")


@dataclass(frozen=True, slots=True)
class KindLab(Lab):
    """A lab for the scenarios: its programs are those of PATH."""

    def program(self, name: str) -> str:
        """Found by whoever runs it."""
        return name


def run(lab: Lab, steps: Steps) -> None:
    """All of it, in a cluster of its own that goes away again; an error says what did not come."""
    need()
    made = KindLab(lab.folder.with_name(f"{lab.folder.name}-kind"), lab.cache)
    if not archive().exists():
        raise LabError(f"{archive()} does not exist: 'make image' builds it")
    _remove(made)  # what a killed run left
    before = devices()
    try:
        _create(made, steps)
        _scenarios(_install(made, steps))
        left = devices() - before
        if left:
            raise LabError(f"devices are left: {', '.join(sorted(left))}")
    except (LabError, NotSeenError):
        with contextlib.suppress(LabError):
            evidence.show(made)
        raise
    finally:
        _remove(made)
        steps.say("kind's cluster is deleted")
    print(f"{len(SCENARIOS)} passed, 0 failed")


def need() -> None:
    """Refuse to begin where something is missing."""
    missing = [f"{name} ({where})" for name, where in NEEDED.items() if not shutil.which(name)]
    if missing:
        raise LabError(
            f"KIND=1 needs, on PATH: {', '.join(missing)}; without KIND the lab needs none of them"
        )
    run_program(["docker", "info"])  # says what is wrong when its daemon does not answer


def config(lab: Lab) -> str:
    """What kind makes: a control plane, and workers that have a folder with a disk each.

    Nodes get the names that the scenarios know. They have the machine's devices, since a loop
    device that is made later would else be missing in them.
    """
    return "\n".join([
        "kind: Cluster",
        "apiVersion: kind.x-k8s.io/v1alpha4",
        "nodes:",
        "  - role: control-plane",
        *(line for number in lab.numbers() for line in _worker(lab, number)),
        "",
    ])  # fmt: skip


def _worker(lab: Lab, number: int) -> Iterator[str]:
    yield "  - role: worker"
    yield "    labels:"
    yield f'      {STORAGE}: "true"'
    yield "    extraMounts:"
    for host, inside in (("/dev", "/dev"), (str(lab.node(number) / "disks"), chart.DISKS)):
        yield f"      - hostPath: {host}"
        yield f"        containerPath: {inside}"
    yield "    kubeadmConfigPatches:"
    yield "      - |"
    yield "        kind: JoinConfiguration"
    yield "        nodeRegistration:"
    yield f"          name: {node_name(number)}"


def create_argv(lab: Lab, path: Path) -> list[str]:
    """Make the cluster; its rights go into a file of ours, not into the user's."""
    return ["kind", "create", "cluster", "--name", NAME, "--config", str(path),
            "--kubeconfig", str(lab.kubeconfig), "--wait", "300s"]  # fmt: skip


def load_argv(image: Path) -> list[str]:
    """Give every node the image."""
    return ["kind", "load", "image-archive", str(image), "--name", NAME]


def delete_argv(lab: Lab) -> list[str]:
    """Delete the cluster; none there is fine."""
    return ["kind", "delete", "cluster", "--name", NAME, "--kubeconfig", str(lab.kubeconfig)]


def values() -> dict[str, Any]:
    """What differs from the chart's defaults: only where our image comes from."""
    return {"image": chart.values()["image"]}


def storage_cluster(lab: Lab) -> dict[str, Any]:
    """The lab's, on the workers only."""
    found = chart.storage_cluster(min(3, lab.node_count))
    return {**found, "spec": {**found["spec"], "nodes": {"selector": {STORAGE: "true"}}}}


def devices(block: Path = SYS_BLOCK) -> set[str]:
    """Loop devices of the machine that hold a volume of ours, or of another Drystone on it."""
    found = set()
    for path in block.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if "/drystone/" in path.read_text():
                found.add(path.parents[1].name)
    return found


def _create(lab: KindLab, steps: Steps) -> None:
    lab.folder.mkdir(parents=True, exist_ok=True)
    chart.make_disks(lab)
    path = lab.folder / "kind.yaml"
    path.write_text(config(lab))
    run_program(create_argv(lab, path), timeout_s=CREATE_S)
    steps.say(f"kind runs; export KUBECONFIG={lab.kubeconfig}")
    run_program(load_argv(archive()), timeout_s=CREATE_S)
    steps.say(f"{archive().name} is in every node")


def _install(lab: KindLab, steps: Steps) -> Run:
    kubectl = Kubectl(lab)
    chart.install(lab, values())
    steps.say("chart installed")
    kubectl.apply([storage_cluster(lab)])
    kubectl.wait("storagecluster", CLUSTER, chart.is_ready, "Ready", namespace=NAMESPACE,
                 deadline_s=READY_S)  # fmt: skip
    chart.wait_whole(kubectl, READY_S)
    steps.say("StorageCluster is ready")
    return Run(lab, kubectl, steps)


def _scenarios(run: Run) -> None:
    try:
        for name in SCENARIOS:
            run.steps.say(f"scenario {name}")
            operated.SCENARIOS[name](run)
    finally:
        run.figures.show()


def _remove(lab: KindLab) -> None:
    run_program(delete_argv(lab), timeout_s=CREATE_S)
    shutil.rmtree(lab.folder, ignore_errors=True)
