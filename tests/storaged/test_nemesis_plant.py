"""A cluster in the networks of a nemesis run: it comes up, lives through a cut, and is gone."""

from __future__ import annotations

import contextlib
import random
import signal

from tests.e2e.nemesis import acts, faults
from tests.e2e.nemesis.lifecycle import running
from tests.e2e.nemesis.plant import Plant
from tests.e2e.nemesis.settings import Lab, processes
from tests.storaged.etcd_server import etcd_binary
from tests.storaged.nemesis_root import MARKS, everything, nothing_is_left

pytestmark = MARKS


def test_a_cluster_of_a_run_loses_a_node_to_a_cut_and_gets_it_back_and_nothing_is_left(tmp_path):
    etcd_binary()
    before = everything()
    lab = Lab(tmp_path / "lab")
    with running(lab, wait_s=60) as run, contextlib.closing(Plant(run)) as plant:
        plant.up()
        assert all(map(plant.runs, processes(lab)))
        fault = faults.cut(lab, random.Random(1), faults.Leaders("m1", "m1"))
        acts.perform(fault.begin, run.net, plant)
        plant.until(lambda: plant.status()["pgs"]["degraded"] > 0, "a member dropped", 60)
        assert run.net.counters().totals()["cut"] > 0
        acts.perform(fault.end, run.net, plant)
        plant.wait_in_sync()
        acts.perform([acts.Signal(("server-n1",), signal.SIGKILL)], run.net, plant)
        assert not plant.runs("server-n1")
        plant.must_live()
        acts.perform([acts.Start(("server-n1",))], run.net, plant)
        plant.wait_in_sync()
    assert everything() == before
    assert nothing_is_left(lab)
