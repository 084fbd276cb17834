"""What every scenario gets."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.e2e.kube.figures import Figures
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.settings import Lab
from tests.e2e.kube.shell import Steps


@dataclass(frozen=True, slots=True)
class Run:
    """A lab that is up, and where to say what happened."""

    lab: Lab
    kubectl: Kubectl
    steps: Steps
    figures: Figures = field(default_factory=Figures)
