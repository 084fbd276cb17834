"""End to end as a user installs it: chart, StorageCluster, volumes, every disturbance, removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tests.e2e.kube import (
    chart,
    cluster,
    disks,
    disturb,
    evacuate,
    footprint,
    maintenance,
    members,
    power,
    reinstall,
    usage,
    volumes,
)
from tests.e2e.kube.chart import CLUSTER, NAMESPACE
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.plain import archive
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import Lab, LabError
from tests.e2e.kube.shell import Steps

WAIT_S: Final = 300.0


def basics(run: Run) -> None:
    """Write here, read there, delete, and nothing is left."""
    usage.write_here_read_there(run.lab, run.kubectl, run.steps)
    usage.leaves_nothing(run.lab, run.kubectl, lambda: _volumes(run.kubectl), run.steps)


SCENARIOS: Final[Mapping[str, Callable[[Run], None]]] = {
    "basics": basics,
    "kinds": volumes.kinds,
    "refusals": volumes.refusals,
    "alone": volumes.alone,
    "many": volumes.many,
    "idle": footprint.idle,
    "restarts": disturb.restarts,
    "rolling-update": disturb.rolling_update,
    "drains": disturb.drains,
    "disk": disks.lose_and_return,
    "etcd-member": members.lose_and_replace,
    "disk-replace": evacuate.replace_a_disk,
    "maintenance": maintenance.announce,
    "node-remove": evacuate.remove_a_node,
    "power-cut": power.lose_a_node,
    "cold-start": power.lose_all,
    "cold-start-two": power.lose_all_get_two,
    "reinstall": reinstall.reinstall,
}
SHORT: Final = ("basics", "power-cut")


def run(lab: Lab, steps: Steps) -> int:
    """All of it; gives the number of scenarios, an error says what did not come."""
    return _run(lab, steps, tuple(SCENARIOS))


def short(lab: Lab, steps: Steps) -> int:
    """What every change is tested with: a volume is used, and a node dies."""
    return _run(lab, steps, SHORT)


def some(lab: Lab, steps: Steps, names: tuple[str, ...]) -> None:
    """Named scenarios, with the cluster left as it is: it is made where there is none."""
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown:
        raise LabError(f"no scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    _scenarios(_install(lab, steps), names)


def _run(lab: Lab, steps: Steps, names: tuple[str, ...]) -> int:
    made = _install(lab, steps)
    _scenarios(made, names)
    _remove(made)
    return len(names) + 1  # to install and to remove is one more


def _install(lab: Lab, steps: Steps) -> Run:
    kubectl = Kubectl(lab)
    cluster.load(lab, archive(), steps)
    chart.make_disks(lab)
    chart.install(lab)
    steps.say("chart installed")
    kubectl.apply([chart.storage_cluster(min(3, lab.node_count))])
    kubectl.wait("storagecluster", CLUSTER, chart.is_ready, "Ready", namespace=NAMESPACE,
                 deadline_s=WAIT_S)  # fmt: skip
    chart.wait_whole(kubectl)
    steps.say("StorageCluster is ready")
    return Run(lab, kubectl, steps)


def _scenarios(run: Run, names: tuple[str, ...]) -> None:
    try:
        for name in names:
            run.steps.say(f"scenario {name}")
            began = run.steps.elapsed_s
            SCENARIOS[name](run)
            run.figures.add(f"scenario {name}", run.steps.elapsed_s - began, "s")
    finally:
        run.figures.show()


def _remove(run: Run) -> None:
    kubectl = run.kubectl
    kubectl.delete("storagecluster", CLUSTER, NAMESPACE)
    kubectl.wait_gone("storagecluster", CLUSTER, NAMESPACE, deadline_s=WAIT_S)
    run.steps.say("StorageCluster deleted")
    chart.uninstall(run.lab)
    kubectl.delete("namespace", NAMESPACE)
    kubectl.wait_gone("namespace", NAMESPACE, deadline_s=WAIT_S)
    run.steps.say("chart removed")


def _volumes(kubectl: Kubectl) -> int:
    found = kubectl.get("storagecluster", CLUSTER, NAMESPACE) or {}
    return int(found.get("status", {}).get("volumes", -1))
