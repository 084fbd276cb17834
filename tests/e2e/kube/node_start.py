"""Turns itself into a node; a process of its own, because it changes its control groups."""

from __future__ import annotations

import sys

from tests.e2e.kube import node
from tests.e2e.kube.settings import from_environment

if __name__ == "__main__":
    step = node.become_inside if "--inside" in sys.argv else node.become
    step(from_environment(), int(sys.argv[1]))
