"""Bytes in a volume that nobody changes: what a copy has to move, and what must be there after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.e2e.kube import manifests
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import LabError, node_name
from tests.e2e.kube.usage import running

NAME: Final = "filler"
MIB: Final = 1 << 20
MIB_WRITTEN: Final = 256
WAIT_S: Final = 300.0
FILE: Final = "/data/file"
WRITE: Final = f"head -c {MIB_WRITTEN}M /dev/urandom > {FILE} && sync && sha256sum < {FILE}"
READ: Final = f"echo 3 > /proc/sys/vm/drop_caches 2>/dev/null; sha256sum < {FILE}"


@dataclass(frozen=True, slots=True)
class Filler:
    """What was written."""

    run: Run
    digest: str

    def check_and_remove(self) -> None:
        """Read it from a pod that starts anew, which has none of it in memory; then delete it."""
        kubectl = self.run.kubectl
        kubectl.delete("pod", NAME)
        kubectl.wait_gone("pod", NAME, deadline_s=WAIT_S)
        found = _run(self.run, READ)
        if found != self.digest:
            raise LabError(f"the {MIB_WRITTEN} MiB that were written are not what is read")
        kubectl.delete("pod", NAME)
        kubectl.wait_gone("pod", NAME, deadline_s=WAIT_S)
        kubectl.delete("pvc", NAME)
        kubectl.wait_gone("pvc", NAME, deadline_s=WAIT_S)


def write(run: Run) -> Filler:
    """Write it to a volume of its own."""
    run.kubectl.apply([manifests.claim(NAME, "1Gi")])
    found = Filler(run, _run(run, WRITE))
    run.steps.say(f"{MIB_WRITTEN} MiB are written and synced")
    return found


def _run(run: Run, command: str) -> str:
    run.kubectl.apply([manifests.user(NAME, NAME, node_name(1))])
    run.kubectl.wait("pod", NAME, running, "to run", deadline_s=WAIT_S)
    return run.kubectl.execute(NAME, "sh", "-c", command)
